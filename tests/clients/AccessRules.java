/*
 * Kafka's own Java client under access rules: what it is told of a topic and a group that are denied, and whether what
 * is allowed works, in one process. A line for each thing that it tried:
 *
 *     $ java -cp 'libs/*' AccessRules.java BOOTSTRAP TOPIC SECRET_TOPIC GROUP SECRET_GROUP
 *     produce TOPIC: 3
 *     produce SECRET_TOPIC: TopicAuthorizationException [SECRET_TOPIC]
 *     ...
 */

import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.GroupAuthorizationException;
import org.apache.kafka.common.errors.TopicAuthorizationException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class AccessRules {
    private static final int RECORDS = 3;
    private static final Duration DEADLINE = Duration.ofSeconds(20);

    public static void main(String[] args) {
        String bootstrap = args[0], topic = args[1], secretTopic = args[2], group = args[3], secretGroup = args[4];
        var sending = Map.<String, Object>of("bootstrap.servers", bootstrap, "linger.ms", 0);
        try (var producer = new KafkaProducer<>(sending, new StringSerializer(), new StringSerializer())) {
            for (String name : List.of(topic, secretTopic)) {
                tell("produce " + name, () -> {
                    for (int number = 0; number < RECORDS; number++) {
                        var sent = producer.send(new ProducerRecord<>(name, "value-" + number));
                        sent.get(DEADLINE.toSeconds(), TimeUnit.SECONDS);
                    }
                    return RECORDS;
                });
            }
        }
        try (var admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            tell("topics", () -> new TreeSet<>(admin.listTopics().names().get()));
            for (String name : List.of(topic, secretTopic)) {
                tell("describe " + name,
                        () -> admin.describeTopics(List.of(name)).allTopicNames().get().get(name).partitions().size());
            }
        }
        for (String protocol : List.of("classic", "consumer")) {
            tell(protocol + " " + topic, () -> read(bootstrap, protocol, group + "-" + protocol, topic));
            tell(protocol + " " + secretTopic, () -> read(bootstrap, protocol, group + "-" + protocol, secretTopic));
            tell(protocol + " " + secretGroup, () -> read(bootstrap, protocol, secretGroup, topic));
        }
    }

    /** Reads a topic in a group, until all there is has come and was committed; returns how many records that were. */
    private static int read(String bootstrap, String protocol, String group, String topic) {
        var reading = Map.<String, Object>of("bootstrap.servers", bootstrap, "group.id", group,
                "group.protocol", protocol, "auto.offset.reset", "earliest", "enable.auto.commit", false);
        int read = 0;
        try (var consumer = new KafkaConsumer<>(reading, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            Instant deadline = Instant.now().plus(DEADLINE);
            while (read < RECORDS && Instant.now().isBefore(deadline)) {
                read += consumer.poll(Duration.ofMillis(500)).count();
            }
            consumer.commitSync();
        }
        return read;
    }

    /** Prints what became of something. */
    private static void tell(String what, Callable<Object> tried) {
        Object result;
        try {
            result = tried.call();
        } catch (Exception error) {
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            result = cause.getClass().getSimpleName();
            if (cause instanceof TopicAuthorizationException denied) {
                result += " " + denied.unauthorizedTopics();
            } else if (cause instanceof GroupAuthorizationException denied) {
                result += " " + denied.groupId();
            }
        }
        System.out.println(what + ": " + result);
    }
}
