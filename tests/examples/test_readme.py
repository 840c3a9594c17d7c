"""What README.md says is so: its commands and options exist, its configurations pass, its tables are complete."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kproxy.cli.main import COMMANDS, main
from kproxy.config import users
from kproxy.config.model import Config
from kproxy.core.causes import Cause
from kproxy.core.credentials import User, derive
from kproxy.testing.certificates import Authority
from kproxy.wire.dropped import FIRST_VERSIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
YAML = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

SEVERAL: dict[object, str] = {dict: ".NAME", tuple: "[]"}
"""How the README writes a place within one of several parts: by its name, or as an entry of a list."""


def table(first_heading: str) -> list[list[str]]:
    """Return the cells of the table that begins so, without its two heading lines and without backticks."""
    lines = iter(README.splitlines())
    assert any(line.startswith(f"| {first_heading} |") for line in lines), first_heading
    assert set(next(lines)) == {"|", "-"}
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return rows


def options(model: type[BaseModel], place: str = "", told: set[object] | None = None) -> Iterator[tuple[str, str]]:
    """Yield each option that a model has with its default as the README writes it; of equal parts, the first one's."""
    told = set() if told is None else told
    for name, field in model.model_fields.items():
        inner = next(filter(is_model, (field.annotation, *get_args(field.annotation))), None)
        several = SEVERAL.get(get_origin(field.annotation), "") if inner is not None else ""
        if not several or inner in told:
            yield place + name, default(field)
        if inner is not None and inner not in told:
            told.add(inner)
            yield from options(inner, f"{place}{name}{several}.", told)


def is_model(kind: object) -> bool:
    """Tell whether a type is a part of the configuration with options of its own."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def default(field: FieldInfo) -> str:
    """Write a default as the README does."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ((), {}) or is_model(type(value)):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def flags(command: str) -> set[str]:
    """Return the options of a command and of those within it, as its --help knows them."""
    found = main.get_command(click.Context(main), command)
    assert found is not None
    commands = [found, *(found.commands.values() if isinstance(found, click.Group) else ())]
    return {flag for one in commands for parameter in one.params for flag in parameter.opts if flag.startswith("--")}


def test_every_option_is_in_the_table_once_with_its_default() -> None:
    """The table of options is the model, no more and no less."""
    told = [(name, value) for name, value, *_ in table("Option")]
    known = dict(options(Config)) | {"listeners.NAME.cluster": "the only one"}  # filled in, by a validator
    assert sorted(told) == sorted(known.items())


def test_every_flag_is_in_the_table_once() -> None:
    """The table of flags is what ``kproxy run --help`` has."""
    told = [flag for cells in table("Flag") for flag in re.findall(r"--[a-z-]+", cells[0])]
    assert sorted(told) == sorted(flags("run"))


def test_every_flag_of_the_doctor_is_in_its_table_once() -> None:
    """The doctor's table is what ``kproxy doctor --help`` has."""
    told = [flag for cells in table("Flag of the doctor") for flag in re.findall(r"--[a-z-]+", cells[0])]
    assert sorted(told) == sorted(flags("doctor"))


def test_every_cause_is_in_the_table_once() -> None:
    """The table of causes is what logs and counters can hold."""
    assert sorted(cause for cause, *_ in table("Cause")) == sorted(Cause)


def test_what_kafka_4_dropped_is_told() -> None:
    """The versions that are named are those that ``breaks_at`` looks for."""
    text = " ".join(README.split())
    (told,) = re.findall(r"Kafka 4\.0 refuses: (.*?)\. With", text)
    groups = re.findall(r"((?:\w+(?:, | and ))*\w+) below (\d+)", told)
    assert {api: int(first) for names, first in groups for api in re.split(", | and ", names)} == FIRST_VERSIONS["4.0"]


def make_files(folder: Path) -> None:
    """Write the files that configurations name."""
    authority = Authority()
    authority.write(folder)
    authority.server("kafka.example.com").write(folder, "kafka")
    with users.changing(folder / "users.yaml", create=True) as file:
        file.users["alice"] = User("alice", {"SCRAM-SHA-512": derive("hunter2", "SCRAM-SHA-512")})


@pytest.mark.parametrize("block", YAML)
def test_configurations_pass(block: str, tmp_path: Path) -> None:
    """Each configuration is one that ``kproxy check`` accepts."""
    path = tmp_path / "kproxy.yaml"
    path.write_text(block, encoding="utf-8")
    make_files(tmp_path)
    result = CliRunner(env={"KAFKA_PASSWORD": "hunter2", "KPROXY_ADMIN_KEY": "hunter3"}).invoke(
        main, ["check", str(path)]
    )
    assert (result.exit_code, result.stderr) == (0, "")


def test_commands_and_their_flags_exist() -> None:
    """Every command line shown, and every flag named, can be typed."""
    text = README.replace("\\\n", " ")
    shown = re.findall(r"(?:^ +(?:\$ )?|`|bin/)kproxy ([a-z]+)([^`\n]*)", text, re.MULTILINE)
    assert {command for command, _ in shown} == set(COMMANDS)
    for command, rest in shown:
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= flags(command), (command, rest)
    known = set().union(*(flags(command) for command in COMMANDS))
    assert set(re.findall(r"`(--[a-z-]+)`", README)) <= known


def test_links_lead_somewhere() -> None:
    """Each link within the repository has a file or a heading behind it."""
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in README.splitlines() if line.startswith("#")}
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.removeprefix("#") in headings if link.startswith("#") else (ROOT / link).exists(), link


def test_the_test_command_is_what_ci_runs() -> None:
    """A newcomer and CI install the same and run the same."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (install,) = re.findall(r"pip\" (install .*)", script)
    (run,) = re.findall(r'exec "\$venv/bin/(pytest.*)"?', script.replace('pytest"', "pytest"))
    assert f".venv/bin/pip {install} && .venv/bin/{run}\n" in README


def test_yaml_blocks_were_found() -> None:
    """There are configurations to check."""
    assert len(YAML) == 8
