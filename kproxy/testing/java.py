"""Kafka's Java side: its jars and its own tools.

The jars come from Maven once and stay in a cache folder (KPROXY_KAFKA_CACHE, else XDG_CACHE_HOME/kproxy)::

    tools = JavaTools(kafka_jars("4.3.1"))
    tools.run(Tool.TOPICS, "--bootstrap-server", "127.0.0.1:9092", "--list").stdout
"""

import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from kproxy.errors import KproxyError
from kproxy.testing.processes import GuardedProcess
from kproxy.testing.waiting import wait_until

CURRENT = "4.3.1"
OLD = "3.9.1"
"""The last line before 4.0: the other half of a rolling upgrade."""

JAVA_MIN = 17
"""Kafka 4 brokers and tools need it (KIP-1013)."""

JVM_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
"""Start fast and leave the cores to what is tested."""

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>kproxy</groupId><artifactId>kafka-jars</artifactId><version>1</version><dependencies>
{dependencies}
</dependencies></project>
"""

# Kafka 3.9's jars log through reload4j; kept quiet and off standard output, where tools print their results.
_LOG4J = """log4j.rootLogger=WARN, err
log4j.appender.err=org.apache.log4j.ConsoleAppender
log4j.appender.err.Target=System.err
log4j.appender.err.layout=org.apache.log4j.PatternLayout
log4j.appender.err.layout.ConversionPattern=%d %p %c %m%n
"""


class JavaError(KproxyError):
    """Java, Maven or a tool did not do what was asked; the text holds the end of its output."""


class Tool(StrEnum):
    """The main classes of Kafka's own programs, as kafka-tools 4.3.1 names them (3.9.1 lacks those marked)."""

    STORAGE = "kafka.tools.StorageTool"
    CONFIGS = "kafka.admin.ConfigCommand"
    TOPICS = "org.apache.kafka.tools.TopicCommand"
    ACLS = "org.apache.kafka.tools.AclCommand"  # not in 3.9.1
    API_VERSIONS = "org.apache.kafka.tools.BrokerApiVersionsCommand"  # not in 3.9.1
    CLUSTER = "org.apache.kafka.tools.ClusterTool"
    CLIENT_METRICS = "org.apache.kafka.tools.ClientMetricsCommand"
    CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
    CONSOLE_PRODUCER = "org.apache.kafka.tools.ConsoleProducer"  # not in 3.9.1
    CONSOLE_SHARE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleShareConsumer"  # not in 3.9.1
    CONSUMER_GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    CONSUMER_PERFORMANCE = "org.apache.kafka.tools.ConsumerPerformance"
    DELEGATION_TOKENS = "org.apache.kafka.tools.DelegationTokenCommand"
    DELETE_RECORDS = "org.apache.kafka.tools.DeleteRecordsCommand"
    DUMP_LOG = "org.apache.kafka.tools.DumpLogSegments"  # not in 3.9.1
    END_TO_END_LATENCY = "org.apache.kafka.tools.EndToEndLatency"
    FEATURES = "org.apache.kafka.tools.FeatureCommand"
    GET_OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
    GROUPS = "org.apache.kafka.tools.GroupsCommand"  # not in 3.9.1
    LEADER_ELECTION = "org.apache.kafka.tools.LeaderElectionCommand"
    LOG_DIRS = "org.apache.kafka.tools.LogDirsCommand"
    METADATA_QUORUM = "org.apache.kafka.tools.MetadataQuorumCommand"
    PRODUCER_PERFORMANCE = "org.apache.kafka.tools.ProducerPerformance"
    REASSIGN_PARTITIONS = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
    SHARE_CONSUMER_PERFORMANCE = "org.apache.kafka.tools.ShareConsumerPerformance"  # not in 3.9.1
    SHARE_GROUPS = "org.apache.kafka.tools.consumer.group.ShareGroupCommand"  # not in 3.9.1
    TRANSACTIONAL_COPIER = "org.apache.kafka.tools.TransactionalMessageCopier"
    TRANSACTIONS = "org.apache.kafka.tools.TransactionsCommand"
    VERIFIABLE_CONSUMER = "org.apache.kafka.tools.VerifiableConsumer"
    VERIFIABLE_PRODUCER = "org.apache.kafka.tools.VerifiableProducer"
    VERIFIABLE_SHARE_CONSUMER = "org.apache.kafka.tools.VerifiableShareConsumer"  # not in 3.9.1


@functools.cache
def java_program() -> str:
    """Return the path of a Java that Kafka 4 can run on.

    Raises:
        JavaError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=f"{home}/bin" if home else None)
    if program is None:
        raise JavaError("there is no java (17 or later) on the PATH or in JAVA_HOME")
    answer = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30, check=False)
    found = re.search(r'version "(\d+)', answer.stderr)
    if found is None or int(found[1]) < JAVA_MIN:
        raise JavaError(f"{program} is older than Java {JAVA_MIN}: {answer.stderr.strip()[:200]}")
    return program


def missing_reason(version: str = CURRENT) -> str | None:
    """Say why no Kafka can be run here, or None when it can: Java 17, and Maven unless the jars are in the cache."""
    try:
        java_program()
    except JavaError as error:
        return str(error)
    if not _jars_dir(version).is_dir() and shutil.which("mvn") is None:
        return "there is no mvn (Maven) on the PATH to fetch Kafka's jars with"
    return None


def kafka_jars(version: str = CURRENT, timeout_seconds: float = 300) -> Path:
    """Return the folder with Kafka's jars, fetched by Maven if it is not in the cache yet.

    Runs side by side wait for one another; a folder appears whole or not at all.

    Raises:
        JavaError: Maven failed.
        TimeoutError: it took too long.
    """
    folder = _jars_dir(version)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w", encoding="ascii") as lock:
        wait_until(lambda: _lock(lock), timeout_seconds, f"another download of Kafka {version}")
        if not folder.is_dir():
            _download(version, folder, timeout_seconds)
    return folder


def _jars_dir(version: str) -> Path:
    xdg = os.environ.get("XDG_CACHE_HOME")
    cache = Path(xdg) if xdg else Path.home() / ".cache"
    return Path(os.environ.get("KPROXY_KAFKA_CACHE") or cache / "kproxy") / f"kafka-{version}"


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _download(version: str, folder: Path, timeout_seconds: float) -> None:
    artifacts = [("org.apache.kafka", "kafka_2.13", version), ("org.apache.kafka", "kafka-tools", version)]
    if int(version.split(".", maxsplit=1)[0]) >= 4:  # Kafka 3 brings a logger of its own along
        artifacts.append(("org.slf4j", "slf4j-simple", "1.7.36"))
    dependencies = "\n".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{number}</version></dependency>"
        for group, name, number in artifacts
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="download-") as temporary:
        pom, libs = Path(temporary, "pom.xml"), Path(temporary, "libs")
        pom.write_text(_POM.format(dependencies=dependencies), encoding="utf-8")
        command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={libs}"]
        done = subprocess.run(
            [*command, "-DincludeScope=runtime"], capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
        if done.returncode != 0 or not any(libs.glob("kafka_2.13-*.jar")):
            raise JavaError(f"Maven could not fetch Kafka {version}: {(done.stdout + done.stderr)[-2000:]}")
        (libs / "log4j.properties").write_text(_LOG4J, encoding="ascii")
        libs.rename(folder)


class JavaTools:
    """Kafka's own command-line programs, run from a folder of jars."""

    def __init__(self, jars_dir: Path, heap: str = "256m", flags: tuple[str, ...] = ()) -> None:
        self.jars_dir = jars_dir
        self._heap = heap
        self._flags = flags  # of the JVM, as "-Dname=value"

    def command(self, main_class: str, *arguments: str, heap: str | None = None) -> list[str]:
        """Return the whole command line, quiet (warnings on standard error) and quick to start."""
        return [
            java_program(),
            f"-Xmx{heap or self._heap}",
            *JVM_FLAGS,
            *self._flags,
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            f"-Dlog4j.configuration=file:{self.jars_dir}/log4j.properties",
            "-cp",
            f"{self.jars_dir}/*",
            main_class,
            *arguments,
        ]

    def popen(self, main_class: str, *arguments: str, **popen: Any) -> GuardedProcess:
        """Start a program and return at once; the caller ends it with ``stop`` or ``kill``, or waits and ``close``s.

        Standard output is a text pipe unless ``popen`` (arguments of subprocess.Popen) says otherwise.
        """
        settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
        return GuardedProcess(self.command(main_class, *arguments), **(settings | popen))

    def run(
        self, main_class: str, *arguments: str, timeout_seconds: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; the caller looks at ``returncode``, ``stdout`` and ``stderr`` (text).

        Raises:
            JavaError: it took longer than ``timeout_seconds`` and was killed; the text says what it had printed.
        """
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = self.popen(
            main_class, *arguments, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, **pipes
        )
        try:
            stdout, stderr = child.process.communicate(stdin, timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            child.signal(signal.SIGKILL)
            stdout, stderr = child.process.communicate(timeout=10)
            text = f"{main_class} did not end within {timeout_seconds:g} s: {stdout[-1000:]} {stderr[-1000:]}"
            raise JavaError(text) from None
        finally:
            if child.process.poll() is None:
                child.kill()
            else:
                child.close()
        return subprocess.CompletedProcess([main_class, *arguments], child.process.returncode, stdout, stderr)

    def check(self, main_class: str, *arguments: str, timeout_seconds: float = 60, stdin: str | None = None) -> str:
        """Run a program that must succeed, and return its standard output.

        Raises:
            JavaError: it took too long, or its exit code was not 0; the text holds what it printed.
        """
        done = self.run(main_class, *arguments, timeout_seconds=timeout_seconds, stdin=stdin)
        if done.returncode != 0:
            text = f"{done.stdout[-1000:]} {done.stderr[-2000:]}"
            raise JavaError(f"{main_class} {' '.join(arguments)} ended with {done.returncode}: {text}")
        return done.stdout
