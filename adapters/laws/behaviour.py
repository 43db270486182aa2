"""The laws of `init`, `begin`, `predict` and `adapt`; the numbers are those of DESIGN.md."""

from collections.abc import Sequence
from typing import Any

import torch

from tta_server.adapters.checkpoint import dump_state, load_state
from tta_server.adapters.laws.law import Operators, bits, finite, law, layout, must
from tta_server.adapters.laws.subject import Subject


@law
def neither_verb_changes_the_state_or_the_backbone(subject: Subject) -> None:
    """Law 1."""
    state = subject.learn(subject.begin(), 2)
    before, digest, images = bits(state), subject.backbone.digest(), subject.batches[2].clone()
    subject.adapter.predict(subject.backbone, state, images)
    subject.adapter.adapt(subject.backbone, state, images)
    must(bits(state) == before, "the state was changed in place")
    must(subject.backbone.digest() == digest, "the weights of the network were changed")
    must(torch.equal(images, subject.batches[2]), "the images were changed in place")


@law
def a_state_shares_no_memory_with_the_backbone(subject: Subject) -> None:
    """Law 1 too: what is shared could be changed by either."""
    backbone = subject.backbone
    owned = {tensor.data_ptr() for tensor in [*backbone.weights().values(), *backbone.norm_stats().values()]}
    shared = [name for name, tensor in subject.begin().items() if tensor.data_ptr() in owned]
    must(not shared, f"{shared} of a fresh state are the network's own tensors; clone them")


@law
def with_batch_statistics_adapt_answers_as_predict(subject: Subject) -> None:
    """Law 2, for adapters whose rows are coupled."""
    if subject.adapter.batch_coupled:
        state, x = subject.learn(subject.begin(), 2), subject.batches[2]
        one = subject.adapter.adapt(subject.backbone, state, x).output.logits
        other = subject.adapter.predict(subject.backbone, state, x).logits
        must(torch.equal(one, other), "adapt answers otherwise than predict")


@law
def rows_do_not_depend_on_their_neighbours_unless_coupled(subject: Subject) -> None:
    """Law 2, for the others."""
    state = subject.learn(subject.begin(), 2)
    x = subject.batches[3]
    one, other = (subject.logits(state, rows)[0] for rows in (x, torch.cat([x[:1], subject.batches[4][1:]])))
    coupled = not torch.equal(one, other)
    said = subject.adapter.batch_coupled
    must(coupled == said, f"batch_coupled is {said}, but a row's answer is {'not its' if coupled else 'its'} own")


@law
def learning_is_deterministic(subject: Subject) -> None:
    """Law 3."""
    one, other = (bits(subject.learn(subject.begin(), 4)) for _ in range(2))
    must(one == other, "two streams that saw the same have learnt different things")


@law
def the_layout_of_a_state_never_changes(subject: Subject) -> None:
    """Law 3."""
    initial = subject.begin()
    learnt = subject.learn(initial, 3)
    must(layout(learnt) == layout(initial), "names, order, shapes, types or devices of a state have changed")
    must(not any(tensor.requires_grad for tensor in learnt.values()), "a tensor of the state has a gradient")


@law
def a_seed_moves_with_each_step_that_draws(subject: Subject) -> None:
    """Law 3: a step that draws random numbers takes them from a seed in the state, and leaves another there."""
    state = subject.begin()
    for batch in subject.batches:
        with Operators() as ran:
            step = subject.adapter.adapt(subject.backbone, state, batch)
        drawn = ran.draws()
        if drawn:
            must("seed" in state, f"{drawn} draws, but the state has no 'seed' to draw from")
            moved = not torch.equal(step.state["seed"], state["seed"])
            must(moved or not step.scalars["accepted"], "the seed stayed, so the next step would draw the same")
        state = step.state


@law
def streams_are_isolated(subject: Subject, order: Sequence[bool] = (True, False, True, True, False, True)) -> None:
    """Law 4: whether a stream takes turns with another, as `order` says, makes no difference to it."""
    alone = subject.learn(subject.begin(), sum(order))
    generator = torch.Generator().manual_seed(0)
    mine, noisy, seen = subject.begin(), subject.begin(), 0
    for turn in order:
        if turn:
            mine, seen = subject.adapter.adapt(subject.backbone, mine, subject.batches[seen]).state, seen + 1
        else:
            noise = torch.rand(subject.batches[0].shape, generator=generator).to(subject.batches)
            noisy = subject.adapter.adapt(subject.backbone, noisy, noise).state
    must(bits(mine) == bits(alone), "a stream has learnt something else because there was another")
    same = torch.equal(subject.logits(mine, subject.batches[7]), subject.logits(alone, subject.batches[7]))
    must(same, "a stream answers otherwise because there was another")


@law
def init_is_a_full_reset(subject: Subject) -> None:
    """Law 5."""
    fresh = subject.begin()
    learnt = subject.learn(fresh, 3)
    again = subject.begin()
    must(bits(again) == bits(fresh), "a fresh state differs after something was learnt")
    one, other = subject.learn(again, 2), subject.learn(fresh, 2)
    must(bits(one) == bits(other) and layout(learnt) == layout(again), "a reset stream learns otherwise")


@law
def begin_moves_nothing_but_statistics(subject: Subject) -> None:
    """Law 15: alike each time, in a state of its own; images that are not finite move nothing."""
    state, backbone = subject.begin(), subject.backbone
    before, digest, x = bits(state), backbone.digest(), subject.batches[0].clone()
    for images in (x, x[:1]):
        one, other = (subject.adapter.begin(backbone, state, images) for _ in range(2))
        must(bits(one) == bits(other), "begin differs each time")
        must(layout(one) == layout(state) and finite(one), "begin changes the layout, or makes a number not finite")
        must(not any(tensor.requires_grad for tensor in one.values()), "what begin returns has a gradient")
        moved = [name for name, content in bits(one).items() if content != before[name]]
        free = {name for name in state if name.partition("/")[2] in backbone.norm_stats() or name.startswith("count/")}
        must(set(moved) <= free, f"begin moves {moved}, not only statistics and counts")
        answers = subject.logits(one, subject.batches[1])
        must(bool(answers.isfinite().all()), "after begin answers are not finite")
    must(bits(state) == before and backbone.digest() == digest, "begin changes the state given, or the network")
    must(torch.equal(x, subject.batches[0]), "begin changes the images in place")
    for value in (torch.nan, torch.inf):
        broken = torch.cat([x[:-1], torch.full_like(x[:1], value)])
        must(bits(subject.adapter.begin(backbone, state, broken)) == before, f"begin takes in an image of {value}")


@law
def a_step_that_is_not_accepted_leaves_the_state_bitwise(subject: Subject) -> None:
    """Law 6, and that of images that are no numbers nothing is accepted."""
    state = subject.learn(subject.begin(), 2)
    for x in (torch.full_like(subject.batches[0], torch.nan), torch.full_like(subject.batches[0], 0.5)):
        step = subject.adapter.adapt(subject.backbone, state, x)
        accepted = bool(step.scalars["accepted"])
        must(not (accepted and x.isnan().any()), "a step on images that are not finite is accepted")
        must(accepted or bits(step.state) == bits(state), "a step that is not accepted changes the state")


@law
def a_non_finite_image_never_yields_a_non_finite_state(
    subject: Subject, row: int = 3, value: float = torch.inf, whole: bool = False
) -> None:
    """Law 7: neither a pixel nor an image of `value` does."""
    state = subject.learn(subject.begin(), 1)
    poisoned = subject.batches[1].clone()
    poisoned[row] = value if whole else poisoned[row]
    poisoned[row, 0, 0, 0] = value
    step = subject.adapter.adapt(subject.backbone, state, poisoned)
    must(finite(step.state), f"an image with {value} makes the state not finite")
    answers = subject.logits(step.state, subject.batches[2])
    must(bool(answers.isfinite().all()), f"after an image with {value} answers are not finite")


@law
def a_batch_of_one_works_or_is_refused_before_anything_changes(subject: Subject) -> None:
    """Law 8."""
    state, single = subject.learn(subject.begin(), 1), subject.batches[1][:1]
    before = bits(state)
    for verb in (subject.adapter.predict, subject.adapter.adapt):
        try:
            found: Any = verb(subject.backbone, state, single)
        except ValueError:
            continue
        output = getattr(found, "output", found)
        must(bool(output.logits.isfinite().all()), f"{verb.__name__} of one image is not finite")
        must(finite(getattr(found, "state", state)), "what is learnt from one image is not finite")
    must(bits(state) == before, "the state was changed in place")


@law
def what_is_no_batch_of_images_is_refused(subject: Subject) -> None:
    """Law 8 too: no image at all, and bytes, which would be taken for images far too bright."""
    state, batch = subject.learn(subject.begin(), 1), subject.batches[1]
    for what, x in (("no image", batch[:0]), ("bytes", (batch * 255).to(torch.uint8))):
        for verb in (subject.adapter.predict, subject.adapter.adapt):
            try:
                verb(subject.backbone, state, x)
            except (ValueError, TypeError, RuntimeError):
                continue
            must(False, f"{verb.__name__} takes {what}; let the network's forward refuse it")


@law
def no_gradient_gets_into_a_state(subject: Subject) -> None:
    """Law 3: neither do images that require one bring it."""
    state = subject.begin()
    for batch in subject.batches[:2]:
        x = batch.clone().requires_grad_()
        begun = subject.adapter.begin(subject.backbone, state, x)
        state = subject.adapter.adapt(subject.backbone, state, x).state
        kept = [name for each in (begun, state) for name, tensor in each.items() if tensor.requires_grad]
        must(not kept, f"of images that require a gradient {kept} of the state does too; detach them")


@law
def in_inference_mode_it_works_or_says_why_not(subject: Subject) -> None:
    """Law 16."""
    state, x = subject.learn(subject.begin(), 1), subject.batches[1]
    before, expected = bits(state), subject.logits(state, x)
    with torch.inference_mode():
        must(torch.equal(subject.logits(state, x), expected), "predict answers otherwise in torch.inference_mode")
        try:
            subject.adapter.adapt(subject.backbone, state, x)
        except RuntimeError as error:
            must("inference_mode" in str(error), f"adapt fails in torch.inference_mode with '{error}'; name the mode")
    must(bits(state) == before, "the state was changed in place")


@law
def a_state_survives_being_written_and_read(subject: Subject) -> None:
    """Law 9."""
    adapter, backbone = subject.adapter, subject.backbone
    state = subject.learn(subject.begin(), 2)
    again = load_state(adapter, backbone, dump_state(adapter, backbone, state), subject.reference)
    must(bits(again) == bits(state) and layout(again) == layout(state), "the state that is read is another")
    one, other = (adapter.adapt(backbone, kept, subject.batches[3]).output.logits for kept in (again, state))
    must(torch.equal(one, other), "the state that is read answers otherwise")


@law
def stacked_states_equal_the_loop_over_streams(subject: Subject) -> None:
    """Law 10, in float64: in float32 an activation at ReLU's kink may fall on either side, and its gradient with it."""
    exact = subject.exact
    if exact is None or not subject.adapter.stackable:
        return
    states = [exact.learn(exact.begin(), 1, start) for start in range(3)]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    images = exact.batches[4:7]
    together = torch.vmap(lambda state, x: exact.adapter.adapt(exact.backbone, state, x)[:2])(stacked, images)
    for i, state in enumerate(states):
        alone = exact.adapter.adapt(exact.backbone, state, images[i])
        pairs = [(together[1].logits[i], alone.output.logits)]
        pairs += [(together[0][name][i], alone.state[name]) for name in state]
        close = all(torch.allclose(one.double(), other.double(), atol=1e-5, rtol=1e-5) for one, other in pairs)
        must(close, "stacked streams learn otherwise than single ones; say stackable = False, or find out why")


@law
def neither_verb_makes_the_host_wait(subject: Subject) -> None:
    """Law 11, unless the adapter says that it does."""
    state = subject.begin()
    with Operators() as ran:
        subject.adapter.predict(subject.backbone, state, subject.batches[0])
        subject.adapter.adapt(subject.backbone, state, subject.batches[0])
    waits = ran.waits()
    must(subject.adapter.synchronises or not waits, f"{waits} makes the host wait; say so with `synchronises`")
