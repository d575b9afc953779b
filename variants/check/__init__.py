"""The conformance suite: it checks that a variant does what the contract and its own extras say.

    python -m variants.check vae my_package.my_variant:MyVAE

Each check is a function of this package, whose docstring says which mistakes it finds. It is given a `Subject`, which
is a variant and a kind of data, and returns a sentence with the figures that it found. The checks of `EACH_KIND` run on
each kind of data that a variant accepts. Those of `ONCE` run on one: a table, or images or sequences if the variant
takes no tables.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from variants.base.contract import InputError, Variant
from variants.check import contract, density, objective, toys
from variants.check.kinds import KINDS
from variants.check.subject import Check, Result, Subject, carry_out, described, name_of

__all__ = ["EACH_KIND", "KINDS", "ONCE", "Check", "Finding", "Result", "Subject", "carry_out", "name_of", "run"]

EACH_KIND: tuple[Check, ...] = (
    contract.terms_have_their_shapes_and_are_finite,
    contract.terms_are_pure_and_can_be_captured,
    contract.each_example_is_scored_by_itself,
    contract.schedules_never_touch_what_is_compared,
    contract.every_weight_is_trained_by_its_own_losses_alone,
    contract.training_improves_the_reconstruction,
    contract.missing_values_and_padding_do_not_leak,
    contract.an_encoder_tells_a_missing_value_from_a_zero,
    contract.encode_never_sees_a_label,
    contract.decode_and_sample_give_data,
    contract.samples_have_the_mean_that_decode_returns,
    contract.the_likelihood_counts_each_known_value_once,
    contract.the_likelihood_is_exact_for_extreme_scales,
    contract.kl_is_not_negative,
    contract.the_scores_are_expectations_under_q,
    contract.samples_of_one_example_stand_together,
    contract.prior_from_noise_has_the_distribution_of_the_prior,
    contract.saved_and_loaded_is_the_same_model,
    contract.pictures_are_rows_and_columns_of_data,
)
ONCE: tuple[Check, ...] = (
    objective.losses_do_not_grow_with_the_batch,
    objective.the_decoder_is_trained_by_the_likelihood_in_nats,
    objective.a_coefficient_of_zero_leaves_no_weight_untrained,
    objective.every_option_changes_something,
    objective.codes_are_permuted_over_the_batch,
    objective.training_and_evaluation_give_the_same_scores,
    objective.running_averages_stay_finite,
    objective.bf16_is_near_fp32,
    toys.a_decomposition_adds_up,
    toys.the_parts_of_a_kl_are_those_of_a_known_posterior,
    toys.the_covariance_of_a_known_posterior_is_measured,
    toys.mmd_is_zero_for_equal_distributions,
    density.log_q_is_the_density_of_the_samples,
    density.the_prior_integrates_to_one,
    density.samples_of_the_prior_have_its_density,
    density.importance_weights_give_the_likelihood,
    density.bound_lies_between_the_elbo_and_the_likelihood,
    objective.a_step_takes_about_as_long_as_that_of_a_vae,
)


@dataclass(frozen=True)
class Finding:
    """What a check found, on all kinds of data together."""

    name: str
    result: Result
    seconds: float


def run(variant: type[Variant], *, device: str = "cpu", seed: int = 0, only: str = "") -> Iterator[Finding]:
    """Carry out all checks of a variant, or those whose names contain `only`, and yield what each found.

    Raises:
        InputError: If the variant accepts no kind of data.
    """
    subjects, refusals = subjects_of(variant, device, seed)
    if not subjects:
        raise InputError(f"{variant.__name__} accepts no kind of data: {'; '.join(refusals.values())}")
    for check in (*EACH_KIND, *ONCE):
        if only not in name_of(check):
            continue
        begin = time.perf_counter()
        if check in ONCE:
            result = carry_out(check, Subject.first(variant, device, seed))
        else:
            result = _together({subject.kind: carry_out(check, subject) for subject in subjects})
        yield Finding(name_of(check), result, time.perf_counter() - begin)


def subjects_of(variant: type[Variant], device: str = "cpu", seed: int = 0) -> tuple[list[Subject], dict[str, str]]:
    """Return what to check: the variant with each kind of data that it accepts.

    The second value has the reasons why it refuses the other kinds, by their names.

    Raises:
        InputError: If the constructor of the variant raises another error than `InputError`.
    """
    subjects, refusals = [], {}
    for kind, spec in KINDS.items():
        subject = Subject(variant, kind, device=device, seed=seed)
        try:
            if not variant.required_fields <= spec.fields:
                raise InputError("it needs sequences")  # all kinds of data have labels
            subject.build()
            subjects.append(subject)
        except InputError as error:
            refusals[kind] = str(error)
        except Exception as error:
            raise InputError(
                f"{variant.__name__} cannot be built for {kind}: {described(error)}; expected an InputError if it "
                "refuses such data"
            ) from error
    return subjects, refusals


def _together(results: dict[str, Result]) -> Result:
    """Return the result of a check on several kinds of data. It passes if it fails on none, and passes on one."""
    failed = [f"{kind}: {result.evidence}" for kind, result in results.items() if result.status == "failed"]
    if failed:
        return Result("failed", f"On {len(failed)} of {len(results)} kinds of data. {' '.join(failed)}")
    passed = [result for result in results.values() if result.status == "passed"]
    reasons = Counter(result.evidence for result in results.values() if result.status == "skipped")
    if not passed:
        return Result("skipped", "; ".join(reasons))
    skipped = "".join(f" Not on {count}: {reason}." for reason, count in reasons.items())
    return Result("passed", f"On {len(passed)} kinds of data. {passed[0].evidence}{skipped}")
