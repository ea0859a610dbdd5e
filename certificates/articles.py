"""Where a certificate answers what the AI Act and standards ask of test documentation.

Regulation (EU) 2024/1689. The second column names the part of the statement.
"""

ARTICLES: tuple[tuple[str, str], ...] = (
    ("Art. 9(8): prior defined metrics and probabilistic thresholds", "plan.claims, plan.alpha, preRegistration"),
    ("Art. 13(3)(b)(ii): level of accuracy and robustness, known circumstances", "levels, cleanAccuracy, doesNotSay"),
    ("Art. 15(1), (3): declared metrics over the lifecycle", "claims, validity"),
    (
        "Art. 15(4), (5): resilience, attempts to alter use or performance by adversarial examples",
        "threatModel, levels",
    ),
    ("Art. 17(1)(d): test procedures and their frequency", "plan, validity"),
    ("Art. 18(1): documentation kept for 10 years", "evidence, resultsRoot"),
    ("Annex IV 2(g): test logs and reports, dated and signed by the responsible persons", "signatures, evaluatedAt"),
    ("ISO/IEC 24029-2:2023: stability of each image at each level; incomplete, falsification only", "results.parquet"),
    ("ISO/IEC TS 4213: test data, environment, metrics with intervals", "plan.pool, observed.environment"),
    ("NIST AI 100-2e2025: goal, knowledge and capability of the attacker", "threatModel"),
)
