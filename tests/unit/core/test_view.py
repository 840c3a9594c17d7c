"""The view of a cluster: who is there, who is remembered, and what that does to the offer."""

from kproxy.core.view import FORGET_AFTER_SECONDS, Change, ClusterView
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import Broker

ONE, TWO = Broker(1, "b1", 9092, None), Broker(2, "b2", 9092, "r")


def table(high: int) -> ApiVersionsAnswer:
    """Make a broker that has Fetch up to a version."""
    return ApiVersionsAnswer(ranges={1: (0, high)})


def offered(view: ClusterView) -> int:
    """Tell the highest Fetch version on offer."""
    assert view.offer is not None
    return view.offer.answer.ranges[1][1]


def test_come_move_and_go() -> None:
    """A Metadata answer tells who came and who moved; who is missing stays known, but is not present."""
    view = ClusterView()
    assert view.apply_brokers([ONE, TWO], "c", 0) == Change([1, 2], [], [])
    assert view.apply_brokers([ONE, TWO], None, 1) == Change([], [], [])
    assert view.cluster_id == "c"
    assert view.apply_brokers([Broker(1, "b9", 9092, None), TWO], "c", 2) == Change([], [1], [])
    assert view.apply_brokers([Broker(1, "b9", 9092, "another rack"), TWO], "c", 3) == Change([], [], [])
    assert view.brokers[1] == Broker(1, "b9", 9092, "another rack")
    assert view.apply_brokers([TWO], "c", 4) == Change([], [], [])
    assert view.present() == [2]
    assert view.brokers.keys() == {1, 2}


def test_forgotten_in_the_end() -> None:
    """A broker is forgotten when it has been missing all the time, not when it came back in between."""
    view = ClusterView()
    view.apply_brokers([ONE, TWO], "c", 0)
    view.apply_brokers([TWO], "c", 100)
    view.apply_brokers([ONE, TWO], "c", 200)
    assert view.present() == [1, 2]
    assert view.apply_brokers([TWO], "c", 300) == Change([], [], [])
    just_before = 300 + FORGET_AFTER_SECONDS - 1
    assert view.apply_brokers([TWO], "c", just_before) == Change([], [], [])
    assert view.apply_brokers([TWO], "c", just_before + 1) == Change([], [], [1])
    assert view.brokers.keys() == {2}
    assert view.apply_brokers([ONE, TWO], "c", just_before + 2) == Change([1], [], [])


def test_offer_follows_the_tables() -> None:
    """The offer changes with a broker's table when the intersection does, and is the same object until then."""
    view = ClusterView()
    view.apply_brokers([ONE, TWO], "c", 0)
    assert view.offer is None
    assert view.set_table(1, table(11))
    first = view.offer
    assert not view.set_table(2, table(15))
    assert view.offer is first
    assert view.set_table(2, table(9))
    assert offered(view) == 9
    assert view.table(2) == table(9)
    assert view.table(3) is None


def test_a_broker_being_restarted_counts() -> None:
    """The offer does not grow while a broker is away, and does when it is forgotten; with the last one it stays."""
    view = ClusterView()
    view.apply_brokers([ONE, TWO], "c", 0)
    view.set_table(1, table(9))
    view.set_table(2, table(15))
    view.apply_brokers([TWO], "c", 1)
    assert offered(view) == 9
    view.apply_brokers([TWO], "c", 1 + FORGET_AFTER_SECONDS)
    assert offered(view) == 15
    view.apply_brokers([], "c", 1000)
    view.apply_brokers([], "c", 1000 + FORGET_AFTER_SECONDS)
    assert view.brokers == {}
    assert offered(view) == 15


def test_a_late_table_is_left_out() -> None:
    """What a forgotten broker's last answer says does not narrow the offer for ever."""
    view = ClusterView()
    view.apply_brokers([TWO], "c", 0)
    view.set_table(2, table(15))
    assert not view.set_table(1, table(2))
    assert view.table(1) is None
    assert offered(view) == 15
