"""Corpora as somebody leaves them who can write to a store and has no trusted validator's key."""

import json
from pathlib import Path

from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.rounds import draft_round, write_round
from perturb.sinks.corpus.sealed_days import day_entry
from perturb.sinks.log.entry import log_key
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.subnet.keys import development_keypair
from tests.support.corpora import VALIDATOR
from tests.support.small_corpora import TODAY, commit, seal, small

OURS = VALIDATOR
MALLORY = development_keypair("//Mallory")


def honest(folder: Path) -> Corpus:
    """Two signed rounds of ours in a signed day, and a third one live."""
    corpus = Corpus(open_store(str(folder)))
    for seed in (1, 2):
        commit(corpus, small(seed, validator=OURS.ss58_address), OURS)
    seal(corpus, signer=OURS)
    commit(corpus, small(3, validator=OURS.ss58_address), OURS)
    return corpus


def stripped(folder: Path) -> Corpus:
    """A corpus like `honest` without any signature, in itself consistent."""
    corpus = Corpus(open_store(str(folder)))
    for seed in (1, 2):
        commit(corpus, small(seed))
    seal(corpus)
    commit(corpus, small(3))
    return corpus


def rewritten(folder: Path) -> Corpus:
    """A corpus like `honest`, all of it signed by Mallory, the records too."""
    corpus = Corpus(open_store(str(folder)))
    for seed in (1, 2):
        commit(corpus, small(seed, validator=MALLORY.ss58_address), MALLORY)
    seal(corpus, signer=MALLORY)
    commit(corpus, small(3, validator=MALLORY.ss58_address), MALLORY)
    return corpus


def laundered(folder: Path) -> Corpus:
    """Our corpus with two more rounds that name us as their validator: one unsigned, one signed by Mallory.

    Their miners' signatures are genuine: to make them nobody needs the validator.
    """
    corpus = honest(folder)
    for seed, signer in ((4, None), (5, MALLORY)):
        insert(corpus, seed, signer)
    return corpus


def insert(corpus: Corpus, seed: int, signer: object) -> str:
    """Add a round that names us as its validator, with `signer`'s signature or none; return its ID."""
    elsewhere = Corpus(open_store(f"{corpus.store.url}-forged-{seed}"))
    made = small(seed, validator=OURS.ss58_address)
    records = commit(elsewhere, made, OURS).records
    bodies = {record.record_id: response.body for record, response in zip(records, made.responses, strict=True)}
    draft = draft_round(
        corpus.open_day(made.challenge.created_at),
        records,
        made.challenge.png,
        bodies,
        signer=signer,  # type: ignore[arg-type]
    )
    write_round(corpus.store, draft)
    return draft.round_id


def foreign_day(corpus: Corpus) -> None:
    """Sign the sealed day of a corpus again with Mallory's key, in the log too."""
    (manifest,) = corpus.manifests()
    forged = manifest.model_copy(update={"signer": None, "signature": None}).signed(MALLORY)
    corpus.store.put(f"sealed/date={TODAY}/manifest.json", forged.to_json())
    corpus.store.delete(log_key(0))
    Log(corpus.store).append(day_entry(forged), signer=MALLORY, at=forged.sealed_at)


def bad_key(corpus: Corpus) -> None:
    """Let the day's manifest name a file outside the store."""
    key = f"sealed/date={TODAY}/manifest.json"
    manifest = json.loads(corpus.store.get(key))
    manifest["files"][0]["key"] = "../../x"
    corpus.store.put(key, json.dumps(manifest, separators=(",", ":"), sort_keys=True).encode())
