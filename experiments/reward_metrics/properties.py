"""The properties of a reward model for a policy: their names, and what they say. Standard library only.

`evaluation.py` measures them. In metrics they are paths: `reward/variance`.
"""

from __future__ import annotations

# name -> (label for tables and figures, meaning); paper A: What Makes a Reward Model a Good Teacher?, paper B: When
# Errors Can Be Beneficial
PROPERTIES: dict[str, tuple[str, str]] = {
    "variance": ("reward variance", "mean within-prompt variance of globally normalised rewards (paper A, F.1)"),
    "raw_variance": ("raw variance", "the same in the reward's own unit"),
    "zero_variance_share": ("zero-variance share", "prompts all of whose samples have the same reward"),
    "on_policy_accuracy": ("on-policy accuracy", "sign agreement over pairs of the policy's samples (paper A, Def. 1)"),
    "off_policy_accuracy": ("off-policy accuracy", "sign agreement on pairs of a dataset"),
    "on_and_off_policy_accuracy": ("on- & off-policy acc.", "mean of the two accuracies (paper A, Table 2)"),
    "variance_and_accuracy": (
        "variance & accuracy",
        "mean of variance and mean accuracy (on- and off-policy where there are both; paper A, Table 2)",
    ),
    "covariance_with_ground_truth": (
        "truth covariance",
        "mean within-prompt covariance of normalised proxy and ground truth: the first-order gain of the ground truth",
    ),
}

_ACCURACIES = {
    "strict_accuracy": ("Acc", "chosen strictly above rejected; a tie is an error (paper B, Acc)"),
    "harm_aware_accuracy": ("HAcc", "or the rejected output below the policy's mean proxy reward (paper B, HAcc)"),
    "weighted_accuracy": ("Acc-W", "Acc, comparisons weighted by their probability under the policy"),
    "weighted_harm_aware_accuracy": ("HAcc-W", "HAcc, weighted by probability"),
    "length_normalised_weighted_accuracy": ("Acc-W/len", "Acc, weighted by probability per token"),
    "length_normalised_weighted_harm_aware_accuracy": ("HAcc-W/len", "HAcc, weighted by probability per token"),
    "comparisons": ("comparisons", "pairs between which the ground truth decides"),
    "effective_comparisons": ("eff. comparisons", "Kish's effective number behind the weighted accuracies"),
    "length_normalised_effective_comparisons": ("eff. comparisons/len", "the same, weighted by probability per token"),
}
COMPARISONS = {
    "": ("", "pairs of the policy's samples"),
    "one_vs_many_": ("1-vs-many ", "the best sample against all worse ones"),
    "off_policy_": ("off-policy ", "pairs of a dataset"),
}
PROPERTIES |= {
    prefix + name: (beside + label, f"{meaning}; {over}")
    for prefix, (beside, over) in COMPARISONS.items()
    for name, (label, meaning) in _ACCURACIES.items()
}
ERROR_CATEGORIES = {
    "none": "no error",
    "harmful_hacking": "harmful: hacking",
    "harmful_stalling": "harmful: stalling",
    "benign_unattractive": "benign: below mean",
    "benign_unlikely": "benign: slow",
    "beneficial": "beneficial",
}
PROPERTIES |= {
    f"error_{name}": (label, "share of sampled outputs (paper B)") for name, label in ERROR_CATEGORIES.items()
}

# What stands in the table of `rl-exp reward-eval`, and first in every correlation table.
MAIN_PROPERTIES = (
    "variance",
    "on_policy_accuracy",
    "off_policy_accuracy",
    "on_and_off_policy_accuracy",
    "variance_and_accuracy",
    "strict_accuracy",
    "harm_aware_accuracy",
)

# What a reward model does to the policy at the first step (`experiments/teaching_signal/`): only where it is measured.
SIGNALS: dict[str, tuple[str, str]] = {
    "learning_signal": (
        "learning signal",
        "|g|^2, g the gradient of the reward: first-order gain of the proxy",
    ),
    "teaching_signal": ("teaching signal", "<g, g of the ground truth>: first-order gain of the ground truth"),
    "signal_cosine": ("signal cosine", "of the two gradients"),
    "teaching_signal_per_root_kl": (
        "teaching / root KL",
        "<g of the ground truth, d> / sqrt(d' F d) for the step d = g",
    ),
    "teaching_signal_per_root_kl_adam": ("teaching / root KL, Adam", "the same for the step that Adam takes"),
    "learnable_variance": ("learnable variance", "reward variance that the policy's score along g explains"),
}


def label_of(name: str) -> str:
    """`variance` or `reward/variance` in words; an unknown name with its underscores as spaces."""
    bare = name.removeprefix("reward/")
    known = PROPERTIES | SIGNALS
    return known[bare][0] if bare in known else bare.replace("_", " ")
