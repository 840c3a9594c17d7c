"""What ``finish`` makes of a run's output."""

from pathlib import Path

import pytest

from kproxy.testing import proxy as module
from kproxy.testing.proxy import ConfiguredProxy, ProxyError

CONFIG = "clusters: {main: {bootstrap: [k:1], sasl: {username: gateway, password: hunter2-hunter2}}}\n"


def finished(folder: Path, line: str) -> None:
    """Finish a run that has written a line."""
    path = folder / "kproxy.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    proxy = ConfiguredProxy(folder, path, "127.0.0.1:1")
    proxy.tap.start()
    proxy.output.write_text("public: clients connect to 127.0.0.1:1\n", encoding="utf-8")
    proxy.log.write_text(line, encoding="utf-8")
    proxy.finish()


def test_a_secret_in_the_log_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was configured, or that a client uses, ends the test that finds it told; a name or a path does not."""
    monkeypatch.setattr(module, "SECRETS", {"wonderland"})
    finished(tmp_path, "login refused for gateway, password_file: key\n")
    for line in ("{'password': 'hunter2-hunter2'}", "alice logged in by wonderland"):
        with pytest.raises(ProxyError, match="holds a secret"):
            finished(tmp_path, line)
