"""Pairs are labelled by the ground truth, shared between arms, and stored as they are."""

from __future__ import annotations

import numpy as np
import pytest
from preference_cases import STOP, CountingTask, NumbersAsText, RandomPolicy

from experiments.runs.artifacts import ArtifactStore
from experiments.training.completion_sources import DatasetPairs, PolicySamples, UniformTokens
from experiments.training.preference_pairs import make_preference_pairs, stored_preference_pairs

TASK = CountingTask()
UNIFORM = UniformTokens(range(30), TASK.max_new_tokens, TASK.stop_tokens)


def arguments(share: float, *, pairs: int = 100, noise: float = 0.0, seed: int = 0, off_policy=UNIFORM):
    return {
        "on_policy": PolicySamples(RandomPolicy()),
        "off_policy": off_policy,
        "pairs": pairs,
        "on_policy_share": share,
        "label_noise": noise,
        "seed": seed,
    }


def made(share: float, **settings):
    return make_preference_pairs(TASK, TASK.prompts, NumbersAsText(), **arguments(share, **settings))


def content(pairs):
    return {(p.index, c, r) for p, c, r in zip(pairs.prompts, pairs.chosen, pairs.rejected, strict=True)}


def truth(rows):
    return TASK.score([], [], rows)[0]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_on_policy_pairs_and_their_number_are_met(share):
    training = made(share).training
    assert len(training) == 100
    assert training.on_policy.mean() == pytest.approx(share)


def test_the_ground_truth_labels_every_pair():
    pairs = made(0.5)
    np.testing.assert_array_equal(pairs.chosen_truth, truth(pairs.chosen))
    np.testing.assert_array_equal(pairs.rejected_truth, truth(pairs.rejected))
    assert (pairs.chosen_truth > pairs.rejected_truth).all()


def test_a_prompt_has_pairs_of_one_kind_only():
    training = made(0.5, pairs=200).training
    kinds = {}
    for prompt, kind in zip(training.prompts, training.on_policy, strict=True):
        kinds.setdefault(prompt.index, set()).add(bool(kind))
    assert all(len(kind) == 1 for kind in kinds.values())


def test_arms_share_the_pairs_that_they_can_share():
    half, quarter = made(0.5, pairs=40).training, made(0.25, pairs=40).training
    assert content(quarter.take(quarter.on_policy)) <= content(half.take(half.on_policy))
    assert content(half.take(~half.on_policy)) <= content(quarter.take(~quarter.on_policy))


def test_held_out_pairs_are_of_other_prompts_and_the_same_for_all_arms():
    none, full = made(0.0), made(1.0)
    assert not {p.index for p in none.training.prompts} & {p.index for p in none.take(none.held_out).prompts}
    for kind in (True, False):
        assert len(none.test(on_policy=kind)) == 128
        assert content(none.test(on_policy=kind)) == content(full.test(on_policy=kind))


def test_label_noise_turns_the_share_of_training_labels_and_no_others():
    clean, noisy = made(1.0, pairs=400), made(1.0, pairs=400, noise=0.25)
    wrong = noisy.chosen_truth < noisy.rejected_truth
    assert wrong[~noisy.held_out].mean() == pytest.approx(0.25, abs=0.06)
    assert not wrong[noisy.held_out].any()
    turned = content(noisy.take(wrong))
    assert {(p, r, c) for p, c, r in turned} <= content(clean)


def test_other_seeds_give_other_pairs():
    assert content(made(1.0, seed=0)).isdisjoint(content(made(1.0, seed=1)))


def test_pairs_of_a_data_set_are_taken_once_for_every_prompt():
    source = DatasetPairs(NumbersAsText(), TASK.max_new_tokens, end=STOP)
    training = made(0.0, pairs=500, off_policy=source).training
    assert len(training) == 56  # an eighth of the 64 prompts is held out
    assert set(training.chosen) == {(1, 2, 3, STOP)}


def test_a_task_without_data_set_pairs_says_what_else_there_is():
    bare = CountingTask()
    bare.prompts = [prompt.__class__(prompt.index, prompt.text, prompt.tokens) for prompt in bare.prompts]
    source = DatasetPairs(NumbersAsText(), TASK.max_new_tokens)
    with pytest.raises(ValueError, match="off_policy=corpus"):
        make_preference_pairs(bare, bare.prompts, NumbersAsText(), **arguments(0.0, off_policy=source))


def test_a_ground_truth_that_tells_nothing_apart_is_refused():
    class Constant(CountingTask):
        def score(self, prompts, texts, tokens):
            return np.zeros(len(tokens)), {}

    with pytest.raises(ValueError, match="equal in each"):
        make_preference_pairs(Constant(), TASK.prompts, NumbersAsText(), **arguments(1.0))


def test_stored_pairs_are_read_as_they_were_made_and_made_once(tmp_path):
    store = ArtifactStore(tmp_path)
    settings = arguments(0.5)
    first, artifact = stored_preference_pairs(
        store, TASK, TASK.prompts, NumbersAsText(), policy_address="a", **settings
    )
    drawn = settings["on_policy"].sampler.drawn
    again, _ = stored_preference_pairs(store, TASK, TASK.prompts, NumbersAsText(), policy_address="a", **settings)
    assert settings["on_policy"].sampler.drawn == drawn
    direct = made(0.5)
    for pairs in (first, again):
        assert pairs.chosen == direct.chosen
        assert pairs.prompts == direct.prompts
        np.testing.assert_array_equal(pairs.on_policy, direct.on_policy)
        np.testing.assert_array_equal(pairs.rejected_truth, direct.rejected_truth)
    assert artifact.facts["pairs"] == 100
    _, other = stored_preference_pairs(store, TASK, TASK.prompts, NumbersAsText(), policy_address="b", **settings)
    assert other.address != artifact.address


def test_arms_draw_the_completions_that_they_share_once(tmp_path):
    store, policy = ArtifactStore(tmp_path), RandomPolicy()
    drawn = []
    for share in (1.0, 0.75, 0.5, 0.25):
        settings = arguments(share) | {"on_policy": PolicySamples(policy)}
        pairs, _ = stored_preference_pairs(store, TASK, TASK.prompts, NumbersAsText(), policy_address="a", **settings)
        assert content(pairs) == content(made(share))
        drawn.append(policy.drawn)
    assert drawn[1:] == drawn[:1] * 3


def test_a_ground_truth_that_seldom_tells_apart_gives_the_pairs_that_there_are():
    class Rare(CountingTask):
        def score(self, prompts, texts, tokens):
            return np.array([float(row[:2] == (3, 4)) for row in tokens]), {}

    training = make_preference_pairs(Rare(), TASK.prompts, NumbersAsText(), **arguments(1.0)).training
    assert 0 < len(training) < 100
