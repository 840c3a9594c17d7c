"""Access: who is let in, and what they may do, as plain, frozen values.

Rules are in the shape of Kafka's ACLs: deny wins, and where nothing is said ``default`` holds. Left out, that is deny
as soon as a rule allows something, as it would mean nothing otherwise, and allow where rules only deny::

    >>> access = Access.model_validate({"rules": [
    ...     {"principal": "User:alice", "operations": ["read"], "topic": "orders-*", "effect": "allow"},
    ... ]})
    >>> access.default_effect
    'deny'

A mistake between the fields of a rule is told with it. Never here: how a rule is kept, which is the core's.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from kproxy.config.base import Model, Switch
from kproxy.config.limitvalues import Apis, Networks, Principal, check_match
from kproxy.config.problems import listed

OperationName = Literal[
    "all",
    "read",
    "write",
    "create",
    "delete",
    "alter",
    "describe",
    "cluster_action",
    "describe_configs",
    "alter_configs",
    "idempotent_write",
]
Effect = Literal["allow", "deny"]
Preset = Literal["read_only", "no_admin"]

RESOURCES = ("topic", "group", "transactional_id", "cluster", "any")

OPERATIONS: dict[str, frozenset[str]] = {
    "topic": frozenset(
        {"read", "write", "create", "delete", "alter", "describe", "describe_configs", "alter_configs"},
    ),
    "group": frozenset({"read", "delete", "describe", "describe_configs", "alter_configs"}),
    "transactional_id": frozenset({"write", "describe"}),
    "cluster": frozenset(
        {"create", "alter", "describe", "cluster_action", "describe_configs", "alter_configs", "idempotent_write"},
    ),
}
"""What there is to do to each type of resource (AclEntry.supportedOperations); all, in every case."""

# Kafka's names have 249 characters at most, and group ids no bound but that of a string.
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Operations = Annotated[
    tuple[OperationName, ...], AfterValidator(check_match), Field(max_length=11, json_schema_extra={"minItems": 1})
]
PrincipalList = Annotated[
    tuple[Principal, ...], AfterValidator(check_match), Field(max_length=1000, json_schema_extra={"minItems": 1})
]
Presets = Annotated[
    tuple[Preset, ...], AfterValidator(check_match), Field(max_length=2, json_schema_extra={"minItems": 1})
]


def _one_resource(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [{"required": [name]} for name in RESOURCES]
    schema["anyOf"] = [{"required": ["principal"]}, {"required": ["principals"]}]


class AccessRule(Model):
    """Who may, or may not, do what to which resources."""

    model_config = ConfigDict(json_schema_extra=_one_resource)

    principal: Principal | None = None
    """Whom it is about, as in "User:alice" or "Group:team-a"; * and ? stand for others. This or principals."""
    principals: PrincipalList | None = None
    """The same for several."""
    operations: Operations
    """Kafka's: read, write, create, delete, alter, describe, cluster_action, describe_configs, alter_configs,
    idempotent_write, or all."""
    topic: Pattern | None = None
    """A topic, or a pattern, as in "orders-*". A rule has this or one of the next four."""
    group: Pattern | None = None
    """A consumer group, or a pattern."""
    transactional_id: Pattern | None = None
    """A transactional id, or a pattern."""
    cluster: Switch | None = None
    """true: the cluster itself."""
    any: Switch | None = None
    """true: every resource of every type."""
    effect: Effect = "allow"
    """allow or deny; deny wins."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.principal is None) == (self.principals is None):
            raise ValueError("give principal or principals, one of them")
        given = [name for name in RESOURCES if getattr(self, name)]
        if not given:
            raise ValueError(f"names no resource; give one of {', '.join(RESOURCES)}")
        if len(given) > 1:
            raise ValueError(f"{listed(given)} are {len(given)} resources; write a rule for each")
        (resource,) = given
        fitting = OPERATIONS.get(resource)
        for name in self.operations:
            if fitting is not None and name != "all" and name not in fitting:
                raise ValueError(
                    f"{name} is nothing that is done to a {resource}; of its operations there are "
                    f"{', '.join(sorted(fitting))}"
                )
        return self


class AccessApis(Model):
    """Which APIs nobody may use."""

    deny: Apis | None = None
    """APIs by Kafka's names, as in [DeleteTopics]."""
    presets: Presets | None = None
    """no_admin: all that change the cluster, its topics, groups or users; read_only: these, and a producer's."""


class Access(Model):
    """Who is let in, and what they may do."""

    cidrs: Networks | None = None
    """Client addresses or networks that are let in, as in 10.0.0.0/8; left out: all."""
    default: Effect | None = None
    """What holds where no rule says anything; left out: deny if a rule allows something, else allow."""
    # Those about a principal are held against each name that it uses, once per connection.
    rules: Annotated[tuple[AccessRule, ...], Field(max_length=10_000)] = ()
    """Rules in the shape of Kafka's ACLs."""
    apis: AccessApis | None = None
    """APIs that nobody may use, whatever the rules say."""
    dry_run: Switch = False
    """Count and log what rules and apis would deny, and deny nothing."""

    @property
    def default_effect(self) -> Effect:
        """What holds where no rule says anything."""
        if self.default is not None:
            return self.default
        return "deny" if any(rule.effect == "allow" for rule in self.rules) else "allow"
