/*
 * Kafka's own Java client through kproxy: ten records there and back.
 *
 * Nothing here knows of kproxy: no credentials, no TLS, one address. Java 17 runs it as it is; libs/ holds
 * org.apache.kafka:kafka-clients and what that needs:
 *
 *     $ java -cp 'libs/*' examples/JavaClient.java 127.0.0.1:9092
 *     Java: 10 records sent and read back
 */

import java.time.Duration;
import java.time.Instant;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class JavaClient {
    private static final String TOPIC = "kproxy-example";
    private static final int RECORDS = 10;
    private static final Duration DEADLINE = Duration.ofSeconds(30);

    /** Sends ten records that no other run sends, and reads until all of them have come back. */
    public static void main(String[] args) throws Exception {
        String bootstrap = args.length > 0 ? args[0] : "127.0.0.1:9092";
        String run = UUID.randomUUID().toString();
        Set<String> missing = IntStream.range(0, RECORDS)
                .mapToObj(number -> run + "-" + number)
                .collect(Collectors.toCollection(HashSet::new));

        Map<String, Object> sending = Map.of("bootstrap.servers", bootstrap);
        try (var producer = new KafkaProducer<>(sending, new StringSerializer(), new StringSerializer())) {
            List<Future<RecordMetadata>> acknowledgements = missing.stream()
                    .map(value -> producer.send(new ProducerRecord<String, String>(TOPIC, value)))
                    .toList();
            for (Future<RecordMetadata> acknowledgement : acknowledgements) {
                acknowledgement.get();
            }
        }

        Map<String, Object> reading =
                Map.of("bootstrap.servers", bootstrap, "group.id", run, "auto.offset.reset", "earliest");
        try (var consumer = new KafkaConsumer<>(reading, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(TOPIC));
            Instant deadline = Instant.now().plus(DEADLINE);
            while (!missing.isEmpty() && Instant.now().isBefore(deadline)) {
                consumer.poll(Duration.ofSeconds(1)).forEach(message -> missing.remove(message.value()));
            }
        }
        if (!missing.isEmpty()) {
            System.err.println(missing.size() + " records did not come back");
            System.exit(1);
        }
        System.out.println("Java: " + RECORDS + " records sent and read back");
    }
}
