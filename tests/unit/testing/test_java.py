"""What is missing to run a Kafka is told in one line."""

from pathlib import Path

import pytest

from kproxy.testing import java


def test_missing_java_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Java, or without Maven and jars, one line says what is missing."""
    monkeypatch.setenv("KPROXY_KAFKA_CACHE", str(tmp_path))
    monkeypatch.setattr(java, "java_program", lambda: "java")
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert "Maven" in str(java.missing_reason())
    (tmp_path / f"kafka-{java.CURRENT}").mkdir()
    assert java.missing_reason() is None


def test_an_old_java_is_not_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Java that Kafka 4 cannot run on is told by its version."""
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(java, "java_program", java.java_program.__wrapped__)
    assert "older than Java 17" in str(java.missing_reason())
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert "no java" in str(java.missing_reason())
