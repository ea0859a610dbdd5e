"""A corpus through its life on every store: rounds, a sealed day, audit, garbage collection, a proof."""

from collections.abc import Callable

from perturb.schemas.signature import Signer
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.base import Store
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.corpus.prove import check_proof, parse_proof, prove
from tests.support.small_corpora import NO_GRACE, commit, seal, small, whats


def test_a_corpus_lives_on_every_store(make_store: Callable[[], Store], keypair: Signer) -> None:
    corpus = Corpus(make_store())
    rounds = [small(seed, validator=keypair.ss58_address) for seed in range(4)]
    summaries = [commit(corpus, made, keypair) for made in rounds]
    assert commit(corpus, rounds[0], keypair).merkle_root == summaries[0].merkle_root, "a retry changes nothing"
    assert len(corpus.live_rounds()) == 4
    before = corpus.table().sort_by("record_id")
    assert before.num_rows == 16

    sealed = seal(corpus, signer=keypair)
    assert (sealed.manifest.records, sealed.manifest.images, sealed.manifest.originals) == (16, 12, 4)
    assert len(sealed.manifest.file("perturbed")) > 1, "shards roll over near the target size"
    assert corpus.live_rounds() == []
    fresh = Corpus(make_store())
    after = fresh.table().sort_by("record_id")
    kept = [name for name in before.column_names if "shard" not in name and "offset" not in name]
    assert after.select(kept).equals(before.select(kept))
    again = seal(fresh)
    assert again.already
    assert again.manifest == sealed.manifest

    commit(fresh, small(9, validator=keypair.ss58_address), keypair)
    own = Trust(frozenset({keypair.ss58_address}))
    report = audit(fresh, trust=own)
    assert report.holds, whats(report)
    assert (report.days, report.rounds, report.records, report.unsigned) == (1, 1, 20, 0)
    assert audit(fresh, sample=0.5).holds

    removed = collect_garbage(fresh, grace=NO_GRACE, keep_superseded=NO_GRACE)
    assert len(removed.superseded) == 12
    assert not removed.orphans
    report = audit(Corpus(make_store()))
    assert report.holds, whats(report)
    assert report.records == 20

    record_id = str(after.column("record_id")[5])
    proof = parse_proof(prove(fresh, record_id).to_json(), "proof.json")
    assert check_proof(proof, trust=own).holds
    assert not check_proof(proof, root="0" * 64).holds
    forged = proof.model_copy(update={"record": proof.record | {"score": 1.0}})
    assert not check_proof(forged, trust=own).holds
