"""Rosters, keys, and who is asked."""

import random
from pathlib import Path

import pytest
from bittensor import Wallet
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from perturb.schemas.commitment import Committed
from perturb.schemas.errors import SettingsError, SubnetError
from perturb.schemas.neuron import Neuron
from perturb.schemas.settings import SubnetSettings
from perturb.subnet.keys import development_keypair, is_hotkey, load_keypair
from perturb.subnet.neurons import find_neurons, find_validators, merge_shared
from perturb.subnet.roster import add_commitment, read_roster, write_roster

ALICE, BOB, CAROL = (development_keypair(f"//{name}").ss58_address for name in ("Alice", "Bob", "Carol"))


def test_a_roster_reads_back_as_written(tmp_path: Path) -> None:
    neurons = [
        Neuron(uid=7, hotkey=ALICE, coldkey=CAROL, endpoint="127.0.0.1:80", stake=1.5, validator_permit=True),
        Neuron(uid=9, hotkey=BOB, endpoint="[::1]:80"),
    ]
    write_roster(tmp_path / "roster.toml", neurons, validators=[CAROL])
    roster = read_roster(tmp_path / "roster.toml")
    assert roster.neurons == tuple(neurons)
    assert roster.validators == {ALICE, CAROL}
    assert not roster.skipped


def test_commitments_stand_in_the_roster_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "roster.toml"
    write_roster(path, [Neuron(uid=0, hotkey=ALICE, endpoint=""), Neuron(uid=1, hotkey=BOB, endpoint="")])
    made = [
        Committed(hotkey=hotkey, text=text, at=at)
        for hotkey, text, at in ((ALICE, '{"h":"\n"}', 10), (BOB, "b", 20), (ALICE, "new", 30))
    ]
    for one in made:
        add_commitment(path, one)
    with pytest.raises(SubnetError, match=f"hotkey {CAROL} is not a neuron"):
        add_commitment(path, Committed(hotkey=CAROL, text="c", at=1))
    with path.open("a") as file:
        file.write('\n[[commitment]]\nhotkey = 3\ntext = "x"\nat = 1\n')
    roster = read_roster(path)
    assert roster.commitments == tuple(made)
    assert len(roster.neurons) == 2
    assert [skip.reason for skip in roster.skipped] == ["commitment 4: hotkey: Input should be a valid string"]
    assert roster.commitments_at(5) == []
    assert roster.commitments_at(29) == made[:2]
    assert set(roster.commitments_at(30)) == {made[1], made[2]}


def test_wrong_entries_are_skipped_and_the_rest_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "roster.toml"
    path.write_text(
        f'[[neuron]]\nhotkey = "{ALICE}"\nendpoint = "127.0.0.1:8091"\n'
        f'[[neuron]]\nhotkey = "{ALICE[:-1]}x"\nendpoint = "127.0.0.1:8092"\n'
        f'[[neuron]]\nhotkey = "{BOB}"\nendpoint = "127.0.0.1:99999"\n'
        f'[[neuron]]\nhotkey = "{BOB}"\n'
        f'[[neuron]]\nhotkey = "{ALICE}"\nendpoint = "127.0.0.1:8093"\n'
        f'[[neuron]]\nhotkey = "{CAROL}"\nendpoint = "127.0.0.1:8094"\nuid = -1\n'
        '[[validator]]\nhotkey = "//Bob"\n'
    )
    found = find_neurons(SubnetSettings(roster=path), own_hotkey="")
    assert [neuron.endpoint for neuron in found.neurons] == ["127.0.0.1:8091"]
    reasons = " | ".join(skip.reason for skip in found.skipped)
    for expected in (
        "not an ss58 address",
        "port '99999'",
        "endpoint: Field required",
        "is listed twice",
        "uid -1",
        "//Bob",
    ):
        assert expected in reasons
    assert find_validators(SubnetSettings(roster=path)) == frozenset()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("neuron = 5", r"write \[\[neuron\]\]"),
        ("[neurons]\nx = 1", "has neurons; accepted"),
        ("][", "is not TOML"),
        ("", "has no neuron to ask"),
    ],
)
def test_a_roster_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "roster.toml"
    path.write_text(text)
    with pytest.raises(SubnetError, match=message):
        find_neurons(SubnetSettings(roster=path), own_hotkey="")


def test_a_roster_that_is_missing_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(SubnetError, match=r"none\.toml can't be read: No such file"):
        find_neurons(SubnetSettings(roster=tmp_path / "none.toml"), own_hotkey="")
    with pytest.raises(SettingsError, match=r"subnet\.roster is not set"):
        find_neurons(SubnetSettings(), own_hotkey="")


def test_we_do_not_ask_ourselves(tmp_path: Path) -> None:
    path = tmp_path / "roster.toml"
    write_roster(path, [Neuron(uid=uid, hotkey=key, endpoint="127.0.0.1:80") for uid, key in enumerate((ALICE, BOB))])
    found = find_neurons(SubnetSettings(roster=path), own_hotkey=ALICE)
    assert [neuron.hotkey for neuron in found.neurons] == [BOB]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["", "a", "b", "c", "d", "e"])), max_size=14),
    st.integers(0, 99),
)
def test_of_those_that_share_anything_exactly_one_is_drawn(marks: list[tuple[int, str]], seed: int) -> None:
    neurons = [
        Neuron(uid=uid, hotkey=f"h{uid}", coldkey=coldkey, endpoint=f"8.8.8.{ip}:{uid + 1}")
        for uid, (ip, coldkey) in enumerate(marks)
    ]
    kept, skipped = merge_shared(neurons, choice=random.Random(seed))
    assert len(kept) + len(skipped) == len(neurons)
    # Flood fill, the plain way.
    components = 0
    left = set(range(len(marks)))
    while left:
        components += 1
        queue = [left.pop()]
        members = set(queue)
        while queue:
            ip, coldkey = marks[queue.pop()]
            near = {uid for uid in left if marks[uid][0] == ip or (coldkey and marks[uid][1] == coldkey)}
            left -= near
            members |= near
            queue += near
        assert sum(neuron.uid in members for neuron in kept) == 1
    assert len(kept) == components


def test_merging_is_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "roster.toml"
    write_roster(
        path, [Neuron(uid=uid, hotkey=key, endpoint=f"127.0.0.1:{80 + uid}") for uid, key in enumerate((ALICE, BOB))]
    )
    assert len(find_neurons(SubnetSettings(roster=path), own_hotkey="").neurons) == 2
    merged = find_neurons(SubnetSettings(roster=path, merge_shared=True), own_hotkey="")
    assert len(merged.neurons) == len(merged.skipped) == 1


def test_hotkeys_are_recognised() -> None:
    assert is_hotkey(ALICE)
    polkadot = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"
    for other in ("", ALICE[:-1], ALICE + "x", ALICE.lower(), polkadot, "é" * 48, "5" * 48, ALICE[:-1] + "\n"):
        assert not is_hotkey(other)


def test_a_wallets_hotkey_is_opened_without_a_question(tmp_path: Path) -> None:
    wallet = Wallet("validator", "main", path=str(tmp_path)).create_new_hotkey(use_password=False, suppress=True)
    settings = SubnetSettings(wallet_name="validator", wallet_hotkey="main", wallet_path=tmp_path)
    assert load_keypair(settings).ss58_address == wallet.hotkey.ss58_address


def test_a_wallet_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    settings = SubnetSettings(wallet_name="missing", wallet_path=tmp_path)
    with pytest.raises(SubnetError, match=r"wallet 'missing' has no hotkey 'default'.*none found in"):
        load_keypair(settings)
    Wallet("validator", "main", path=str(tmp_path)).create_new_hotkey(use_password=False, suppress=True)
    with pytest.raises(SettingsError, match="wallet_path ~nobody-here/w names a user without a home folder"):
        load_keypair(SubnetSettings(wallet_name="validator", wallet_path=Path("~nobody-here/w")))
    with pytest.raises(SubnetError, match="accepted: validator/main;"):
        load_keypair(settings)


@pytest.mark.slow
def test_a_locked_or_broken_hotkey_is_said_plainly(tmp_path: Path) -> None:
    locked = Wallet("locked", "default", path=str(tmp_path)).create_new_hotkey(hotkey_password="secret", suppress=True)
    settings = SubnetSettings(wallet_name="locked", wallet_path=tmp_path)
    with pytest.raises(SubnetError, match="is encrypted; put its password into"):
        load_keypair(settings)
    right = settings.model_copy(update={"wallet_password": SecretStr("secret")})
    assert load_keypair(right).ss58_address == locked.hotkeypub.ss58_address
    hotkeys = tmp_path / "broken" / "hotkeys"
    hotkeys.mkdir(parents=True)
    (hotkeys / "default").write_text("{")
    with pytest.raises(SubnetError, match="can't be opened"):
        load_keypair(SubnetSettings(wallet_name="broken", wallet_path=tmp_path))


def test_development_keys_are_not_repeated_in_errors() -> None:
    for uri in ("", "correct horse battery staple"):
        with pytest.raises(SettingsError) as caught:
            development_keypair(uri)
        assert "horse" not in str(caught.value)
