"""What the controlled experiments are judged by: every statement with its region; the experiments say what was found.

Light, so that the ledger of claims can read it without torch. Experiments take theirs from `statements_of`.
"""

from __future__ import annotations

from typing import Any

from experiments.reward_metrics.statements import Kind, Statement

ERRORS = "When Errors Can Be Beneficial, "
TEACHER = "What Makes a Reward Model a Good Teacher?, "
FIRST = "2026-11-23"  # before any of these experiments had published results
LEDGER = "2026-11-25"
REVIEW = "2026-11-30"  # measured or bounded anew after a review of the published results

SIGNALS = "this project: docs/teaching_signal.md"
EQUALS = "with equal variance, accuracy and learning signal the ground truth"

# What errors of a category do, judged after every recorded number of updates.
CATEGORIES: dict[str, tuple[str, dict[str, Any]]] = {
    "harmful_hacking": ("harmful errors of type I (hacking) lower ground truth", {"below": 0.0}),
    "harmful_stalling": ("harmful errors of type II (stalling) lower ground truth", {"below": 0.0}),
    "benign_unattractive": (
        "benign errors of type I (never attractive) change ground truth by at most .02 on average",
        {"at_most": 0.02},
    ),
    "benign_unlikely": (
        "benign errors of type II (negligible probability) change ground truth by at most .02 on average",
        {"at_most": 0.02},
    ),
    "beneficial": ("beneficial errors raise ground truth", {"above": 0.0}),
}

# fmt: off
STATEMENTS: tuple[Statement, ...] = (
    # imperfect_rewards
    Statement(id="imperfect_rewards.proxy_first", unit="", ruled=FIRST, above=1.0, source=ERRORS + "section 3.3",
        says="the ground truth reward is not the best reward to train on: the proxy reaches y* earlier"),
    Statement(id="imperfect_rewards.early_stop", unit="", ruled=FIRST, above=0.0, source=ERRORS + "section 3.3",
        says="a run that stops early draws the opposite conclusion"),
    Statement(id="imperfect_rewards.higher_variance", kind=Kind.ours, unit="", ruled=FIRST, above=1.0,
        source=f"a rule that one might read into {TEACHER}section 3, which says only that low variance is slow",
        says="more than the paper claims: of two rewards the one with higher variance is the better teacher"),
    Statement(id="imperfect_rewards.negative_product", unit="", ruled=FIRST, above=1.0, source=ERRORS + "appendix A.1",
        says="a negative inner product of the features of y* and the mediocre output worsens stalling"),
    Statement(id="imperfect_rewards.positive_product", unit="", ruled=FIRST, above=1.0, source=ERRORS + "appendix A.1",
        says="a positive inner product helps the ground truth reward"),
    Statement(id="imperfect_rewards.sampled_proxy", unit="seeds", ruled=FIRST, above=0.0, source=ERRORS + "appendix C",
        says="sampled updates, too, reach y* more often on the proxy"),
    # phase_diagram
    Statement(id="phase_diagram.truth_exponent", unit="initial policies", ruled=FIRST, at_most=-14 / 13,
        source=ERRORS + "main theorem",
        says="training on the ground truth takes time at least of order p*^(-14/13)"),
    Statement(id="phase_diagram.proxy_exponent", unit="initial policies", ruled=FIRST, at_least=-1.05,
        source=ERRORS + "main theorem",
        says="training on the proxy takes time at most of order p*^(-1); .05 is left for the finite range"),
    Statement(id="phase_diagram.derived_exponent", kind=Kind.ours, unit="initial policies", ruled=FIRST, at_least=0.9,
        at_most=1.1, source="derived here (predicted_exponent)",
        says="the exponent under the ground truth is -(number of bad outputs + 1), within 10 %"),
    Statement(id="phase_diagram.reversal", unit="", ruled=FIRST, below=0.0, source=ERRORS + "appendix A.1",
        says="a positive inner product can reverse the conclusion: rewarding the mediocre output helps"),
    Statement(id="phase_diagram.worse_stalling", unit="", ruled=FIRST, at_least=1.0, source=ERRORS + "appendix A.1",
        says="negative inner products worsen stalling under the ground truth"),
    # reward_variance
    Statement(id="reward_variance.time_exponent", unit="problems", ruled=FIRST, at_most=-1 / 3,
        source=TEACHER + "Theorem 1",
        says="the time to a fixed gain grows at least as variance^(-1/3)"),
    Statement(id="reward_variance.gradient_exponent", unit="problems", ruled=FIRST, at_least=1 / 3,
        source=TEACHER + "section 3, gradient bound of arXiv 2310.20703",
        says="the gradient vanishes at least as variance^(1/3)"),
    Statement(id="reward_variance.shrunk_time", kind=Kind.check, unit="problems", ruled=REVIEW, at_least=-0.501,
        at_most=-0.499, source="gradient flow scales with the reward",
        says="of shrunk rewards the time to a fixed gain grows as variance^(-1/2)"),
    Statement(id="reward_variance.shrunk_gradient", kind=Kind.check, unit="problems", ruled=REVIEW, at_least=0.499,
        at_most=0.501, source="the gradient scales with the reward",
        says="of shrunk rewards the gradient vanishes as variance^(1/2)"),
    Statement(id="reward_variance.shrunk_slow", kind=Kind.check, unit="problems", ruled=REVIEW, at_least=999.0,
        at_most=1001.0, source=TEACHER + "Theorem 2; gradient flow scales with the reward",
        says="a perfectly accurate reward model whose rewards are shrunk by 1,000 takes 1,000 times as long"),
    Statement(id="reward_variance.fast_inaccurate", unit="problems", ruled=FIRST, at_least=-1.05,
        source=TEACHER + "Theorem 2",
        says="a reward model of accuracy at most 2/|Y| can be fast: time of order 1 / pi_0(best output), exponent at "
             "least -1.05"),
    Statement(id="reward_variance.inaccurate", kind=Kind.check, unit="", ruled=REVIEW, at_most=1 + 1e-12,
        source=TEACHER + "Theorem 2",
        says="that reward model's accuracy is at most 2/|Y| (as a multiple of it)"),
    Statement(id="reward_variance.best_of", unit="problems", ruled=FIRST, at_least=0.0,
        source=TEACHER + "Proposition 1",
        says="for best-of-N a perfectly accurate reward model is the best one, however low its variance"),
    # teacher_bandit
    Statement(id="teacher_bandit.variance_proxy", unit="seeds", ruled=FIRST, at_least=0.95, source=TEACHER + "Table 2",
        says="reward variance predicts the increase of the proxy reward: r of at least .95 (paper: .982)"),
    Statement(id="teacher_bandit.variance_truth", unit="seeds", ruled=FIRST, at_least=0.5, source=TEACHER + "Table 2",
        says="reward variance predicts the increase of the ground truth reward: r of at least .5 (paper: .834)"),
    Statement(id="teacher_bandit.on_policy_alone", unit="seeds", ruled=FIRST, at_most=0.0, source=TEACHER + "Table 2",
        says="on-policy accuracy alone does not predict it: r is not positive (paper: -.283)"),
    Statement(id="teacher_bandit.off_policy_alone", unit="seeds", ruled=FIRST, at_most=0.0, source=TEACHER + "Table 2",
        says="off-policy accuracy alone does not predict it: r is not positive (paper: -.507)"),
    Statement(id="teacher_bandit.together", unit="seeds", ruled=LEDGER, above=0.0, source=TEACHER + "Table 2",
        says="variance and accuracy together predict ground truth better than variance alone (paper: .940 and .834)"),
    Statement(id="teacher_bandit.perfect_is_slow", unit="seeds", ruled=FIRST, below=0.0, source=TEACHER + "Figure 2",
        says="a perfectly accurate reward model of low variance is a worse teacher than a less accurate one"),
    Statement(id="teacher_bandit.early_proxies", unit="seeds", ruled=REVIEW, above=0.0, source=TEACHER + "Figure 2",
        says="after a quarter of the updates the best proxy, chosen by the other seeds, is ahead of training on the "
             "ground truth itself"),
    Statement(id="teacher_bandit.random_variance", kind=Kind.ours, unit="seeds", ruled=FIRST, above=0.0,
        source=TEACHER + "section 4.1, beyond its six reward models",
        says="over random reward models, too, reward variance predicts the increase"),
    Statement(id="teacher_bandit.random_accuracy", kind=Kind.ours, unit="seeds", ruled=FIRST, above=0.0,
        source="derived here: Table 2's negative sign comes from the six models' profile",
        says="at independent variance, accuracy does predict ground truth"),
    Statement(id="teacher_bandit.harm_aware_better", unit="seeds", ruled=FIRST, above=0.0, source=ERRORS + "section 4",
        says="harm-aware accuracy predicts ground truth better than accuracy"),
    Statement(id="teacher_bandit.control_variance", kind=Kind.ours, unit="seeds", ruled=FIRST, at_most=0.1,
        source="negative control of design D1",
        says="without between-prompt spread all five proxies have nearly the same normalised variance"),
    Statement(id="teacher_bandit.control_speed", kind=Kind.ours, unit="seeds", ruled=FIRST, at_most=0.15,
        source="negative control of design D1",
        says="and nearly the same speed of the proxy reward"),
    Statement(id="teacher_bandit.control_accuracy", kind=Kind.ours, unit="seeds", ruled=FIRST, at_least=0.8,
        source="negative control of design D1",
        says="so that on-policy accuracy decides the increase of ground truth"),
    # policy_dependence
    Statement(id="policy_dependence.own_teacher", kind=Kind.check, unit="initial policies", ruled=FIRST, at_least=2.0,
        source=TEACHER + "Theorem 3",
        says="on each policy its own reward model is the better teacher, by more than 100 times (log10 of the ratio)"),
    Statement(id="policy_dependence.no_bound", kind=Kind.check, unit="initial policies", ruled=FIRST, at_most=-0.5,
        source=TEACHER + "Theorem 3",
        says="the gap has no bound: it grows as the excluded output gets rarer"),
    # partial_credit
    Statement(id="partial_credit.easy_and_rare", unit="", ruled=FIRST, above=0.0, source=ERRORS + "section 5",
        says="where one constraint is easy and both together are rare, partial credit stalls and binary credit is "
             "faster"),
    Statement(id="partial_credit.both_rare", kind=Kind.ours, unit="", ruled=REVIEW, below=0.0,
        source="design D4, after " + ERRORS + "section 5",
        says="where both together are rare and the parts have probabilities of .05 and .02, partial credit is faster"),
    Statement(id="partial_credit.sharing_alone", kind=Kind.ours, unit="", ruled=FIRST, below=0.0, source="design D4",
        says="shared features alone make partial credit faster, however easy one of the constraints is"),
    Statement(id="partial_credit.more_sharing", kind=Kind.ours, unit="", ruled=REVIEW, at_least=1.0, source="design D4",
        says="more sharing of features makes partial credit relatively faster wherever both together are rare"),
    Statement(id="partial_credit.std_relief", kind=Kind.ours, unit="", ruled=REVIEW, at_least=0.25, at_most=0.5,
        source="design D4",
        says="dividing advantages by their std leaves a half to a quarter of the log10 penalty of partial credit "
             "(median)"),
    Statement(id="partial_credit.sampled_agrees", kind=Kind.ours, unit="seeds", ruled=FIRST, above=0.0,
        source=ERRORS + "section 5, sampled",
        says="the credit that exact gradients favour wins under sampled GRPO, too"),
    Statement(id="partial_credit.next_to_none", unit="seeds", ruled=FIRST, above=0.0,
        source=ERRORS + "section 5 and appendix C.3",
        says="where joint success is next to none, partial credit may be needed"),
    # learnable_variance
    Statement(id="learnable_variance.speed", kind=Kind.ours, unit="seeds", ruled=REVIEW, at_least=0.8, at_most=1.2,
        source=SIGNALS,
        says="of reward models with equal variance, those whose variance is learnable are faster, in proportion"),
    Statement(id="learnable_variance.unlearnable", kind=Kind.ours, unit="seeds", ruled=REVIEW, at_least=-1e-9,
        at_most=1e-9, source=SIGNALS,
        says="a reward model whose variance cannot be learned teaches nothing, as accurate as it is"),
    Statement(id="learnable_variance.aligned", kind=Kind.ours, unit="seeds", ruled=REVIEW, at_least=0.0, source=SIGNALS,
        says=f"{EQUALS} rises if the learnable part points along its own"),
    Statement(id="learnable_variance.opposed", kind=Kind.ours, unit="seeds", ruled=REVIEW, at_most=0.0, source=SIGNALS,
        says=f"{EQUALS} falls if the learnable part points against its own"),
    Statement(id="learnable_variance.signal_predicts", kind=Kind.ours, unit="seeds", ruled=REVIEW, at_least=0.9,
        source=SIGNALS,
        says="the teaching signal says beforehand how much the ground truth will gain"),
    # error_categories: tabular policies, of which the paper's theorem speaks, and random features, of which it does not
    *(
        Statement(id=f"error_categories.{name}", unit="problems", ruled=REVIEW, **region,
            source=ERRORS + "categories of reward errors", says=f"{says} (tabular)")
        for name, (says, region) in CATEGORIES.items()
    ),
    *(
        Statement(id=f"error_categories.features.{name}", kind=Kind.ours, unit="problems", ruled=REVIEW, **region,
            source=ERRORS + "categories of reward errors", says=f"{says} (random features)",
            aside="ours: the paper's conditions are for orthonormal features")
        for name, (says, region) in CATEGORIES.items()
    ),
)
# fmt: on


def statements_of(experiment: str) -> dict[str, Statement]:
    """By the rest of their ids: `reversal` of `phase_diagram.reversal`."""
    begin = f"{experiment}."
    return {item.id.removeprefix(begin): item for item in STATEMENTS if item.id.startswith(begin)}
