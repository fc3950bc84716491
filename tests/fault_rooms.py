"""A few of the suite's tests, on numbers that need few kernels: what finds planted faults."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest

import fastbp as fb


def small():
    rng = np.random.default_rng(7)
    X = rng.normal(size=(50, 3))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1]


def case(sizes, loss, rows, *activations):
    from strategies import Case

    hidden = len(sizes) - 2
    return Case(sizes, activations or ("tanh",) * hidden + ("identity",), loss, rows, 17)


def inner(test):
    """The function below Hypothesis's decorators."""
    return test.hypothesis.inner_test


def gradients():
    import test_gradients
    import test_label_smoothing

    inner(test_label_smoothing.test_gradients_against_complex_step)(
        case((5, 9, 5), "cross_entropy", 12), 0.3, True
    )
    test = inner(test_gradients.test_random_networks_against_complex_step_and_the_chain_rule)
    for weighted in (True, False):
        test(case((7, 70, 33, 3), "mse", 65), weighted)
    for rows in (1, 2, 3, 27):
        test(case((7, 37, 5), "mse", rows), True)
    test(case((5, 9, 40), "mse", 30), True)
    test(case((40, 23, 1), "mse", 31), True)  # thin
    test(case((5, 9, 5), "cross_entropy", 12), True)
    test(case((5, 9, 70), "cross_entropy", 12), True)
    test_gradients.test_vjp_and_jacobian_against_complex_step.hypothesis.inner_test(
        case((4, 9, 3), "mse", 5)
    )


def gradients_of_large_batches():
    import test_gradients

    test = inner(test_gradients.test_random_networks_against_complex_step_and_the_chain_rule)
    test(case((9, 70, 3), "mse", 1100), True)
    for rows in (1, 9):
        test_gradients.test_sums_longer_than_a_block(rows)


def gradients_in_lanes():
    import test_lanes

    tanh = ("tanh", "tanh", "identity")
    for weighted in (True, False):
        test_lanes.test_gradients_in_lanes_against_the_reference(
            ((4, 40, 16, 4), tanh, "mse", 1100), weighted
        )
        test_lanes.test_gradients_in_lanes_against_the_reference(
            ((5, 20, 19), tanh[1:], "cross_entropy", 140), weighted
        )


def kernels():
    import test_gradient_kernels
    import test_kernels
    import test_lanes
    import test_single_row
    import test_update_kernels

    for shape in ((9, 65, 17), (64, 33, 32), (3, 7, 2)):
        test_kernels.test_dense_forward(shape, "float64", True, 0)
        test_kernels.test_dense_backward_data(shape, "float64")
    for rows in (7, 17, 150):
        test_kernels.test_reduce_loss_adds_every_row_once(rows, "float64")
    test_kernels.test_reduce_loss("float64", 1.5)
    for shuffled in (False, True):
        for place in ((23, 11), (200, 65), (1000, 0)):
            test_kernels.test_order_rows(shuffled, *place)
    test_kernels.test_gather_and_store(17, "float64")
    test_kernels.test_multiply_cotangent(17, "float64")
    test_kernels.test_every_loss(fb.Mse(), 65, True, "float64")
    test_single_row.test_elementwise_loss("mse", 17, True, "float64")
    test_gradient_kernels.test_transpose_weight(70, 5, "float64")
    test_gradient_kernels.test_penalties_norms_and_their_reduction(0.0, 0.7, 65, "float64")
    test_gradient_kernels.test_dense_weight_and_bias_gradient((33, 63, 20), 3, "float64")
    test_lanes.test_penalties_and_norms_in_lanes(0.0, 0.7, "float64")
    test_lanes.test_every_loss_in_lanes(fb.Mse(), 18, True, "float64")
    ways = ("alone", "with its bias", "turned, with its bias")
    for beside, n, shape in itertools.product(ways, (1, 11), ((33, 40), (5, 17))):
        if beside == "alone" or shape == (5, 17):
            test_update_kernels.test_one_step_is_gradient_update_and_transpose(
                fb.SGD(0.1), 0.3, (0.2, 0.1), beside, n, *shape, "float64"
            )


def laws():
    import test_laws
    import test_settings

    from fastbp.activations import Activation
    from fastbp.losses import Loss

    for name in Activation.names():
        test_laws.test_activation_laws_run_in_the_interpreter(name)
    for name in Loss.names():
        if Loss.registry[name].law is not None:
            test_laws.test_loss_laws_run_in_the_interpreter(name)
    for activation in test_settings.ACTIVATIONS:
        test_settings.test_activations_with_other_settings(activation)
    for loss in test_settings.LOSSES:
        test_settings.test_losses_with_other_settings(loss)


def optimizers():
    import test_optimizer_laws

    for optimizer in test_optimizer_laws.VARIANTS:
        test_optimizer_laws.test_laws_of_optimizers_run_in_the_interpreter(optimizer)


def training():
    import test_training

    narrow = case((4, 9, 3), "mse", 53)
    momentum = fb.SGD(0.05, momentum=0.5)
    for size in (1, 7, 53):
        test_training.compare(narrow, momentum, size, 3, shuffled=True, weighted=size == 1)
    wide = case((6, 70, 40, 5), "mse", 41)
    for penalties in ({}, {"clip_norm": 0.4}, {"clip_value": 0.01}, {"l1": 0.01, "l2": 0.1}):
        test_training.compare(
            wide, fb.AdamW(0.01), 16, 4, shuffled=True, weighted=True, **penalties
        )
    for penalties in ({"l2": 0.3, "clip_norm": 0.1}, {"clip_norm": 0.5, "clip_value": 0.02}):
        test_training.compare(
            wide, fb.AdamW(0.01), 16, 4, shuffled=True, weighted=True, **penalties
        )
    lanes = case((4, 20, 12, 3), "mse", 300)
    test_training.compare(lanes, fb.AdamW(0.01), 140, 2, shuffled=True, weighted=True, l2=0.1)
    test_training.compare(narrow, fb.NAdam(0.01), 53, 3, shuffled=False, weighted=False)
    test_training.compare(narrow, fb.Rprop(0.01), 53, 3, shuffled=False, weighted=False)


def history():
    import test_training

    for clip_norm in (1e-3, None):
        test_training.test_gradient_norm_and_learning_rate_in_the_history(clip_norm, 50, small())
    test_training.test_the_gradient_norm_of_an_epoch_is_the_mean_over_its_batches(small())
    test_training.test_schedules_act_on_every_step(small())
    test_training.test_reduce_on_plateau_follows_the_validation_loss(small())


def schedules():
    import test_parts

    test_parts.test_schedules_against_their_formulas()
    test_parts.test_reduce_on_plateau()


def shuffles():
    import test_parts

    test_parts.test_philox_against_published_vectors()
    for rows in (5, 64, 1500):
        inner(test_parts.test_the_shuffle_is_a_permutation)(rows, 3, 4)
    test_parts.test_orders_differ_between_epochs_and_seeds()


def validation():
    import test_training

    test_training.test_validation_by_fraction_and_by_arrays(small())
    test_training.test_weighted_validation(small())
    test_training.test_patience_restores_the_best_parameters(small())
    test_training.test_patience_without_validation_watches_the_training_loss(small())
    test_training.test_callbacks_stop_training_and_see_the_epochs_parameters(small())
    test_training.test_a_batch_of_zero_weights_changes_nothing_under_sgd(small())


def scaling():
    import test_standardize

    test_standardize.test_standardize_is_training_on_standardised_data(small(), "float64")
    test_standardize.test_standardize_fits_on_the_training_rows_only(small())
    test_standardize.test_sample_weights_weigh_in_the_means_and_scales(small())


def refusals():
    import test_input
    import test_not_finite

    for name in test_input.BAD:
        test_input.test_bad_arguments_of_train(name)
    test_not_finite.test_a_row_of_weight_zero_counts_for_nothing_even_with_an_infinite_loss()


def divergence():
    import test_training
    import test_workers

    test_workers.test_all_workers_stop_where_training_diverges(2, None)
    for clip_norm in (None, 1e300):
        test_training.test_divergence_is_an_error_and_leaves_the_last_finished_epoch(
            small(), clip_norm
        )
    for clip_norm in (None, 1.0):
        test_training.test_divergence_within_an_epoch_takes_its_first_steps_back(small(), clip_norm)


def predictions():
    import test_prediction
    import test_properties

    def model():
        return fb.Model(fb.mlp(5, 40, 33, 3, activation="tanh"), dtype="float64", seed=3)

    X = np.random.default_rng(0).normal(size=(70, 5))
    for standardize in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            test_prediction.test_the_same_bits_as_in_a_large_batch(model(), X, standardize, patch)
    test_prediction.test_changed_parameters_and_scalings_are_seen(model(), X)
    inner(test_properties.test_permuting_rows)(case((5, 9, 3), "mse", 40))


def reuse():
    import test_reuse

    test_reuse.test_every_call_of_a_model_is_that_of_a_fresh_one()
    test_reuse.test_many_rows_are_the_sum_of_their_chunks(True)


def buffers():
    import test_no_surprises

    for hidden, clip_norm in (((100, 70), None), ((100, 70), 1.0), ((40, 40), None)):
        test_no_surprises.test_poisoned_buffers_do_not_reach_a_result(np.nan, hidden, clip_norm)


def workers():
    import test_workers

    for keywords in ({}, {"clip_norm": 0.1}):
        test_workers.test_any_number_of_workers_gives_the_same_bits(2, keywords)
    with pytest.MonkeyPatch.context() as patch:
        test_workers.test_batches_in_segments_of_a_few_rows(patch)


def elementary():
    import test_kernels

    for name in ("tanh", "sigmoid", "softplus", "gelu", "sine", "elu"):
        test_kernels.test_every_activation_law_compiled(name, "float64")


def files():
    import test_files

    X, y = small()
    model = fb.Model(fb.mlp(3, 5, 1, activation="tanh"), dtype="float64", seed=4)
    fb.train(model, X, y, epochs=2, standardize=True)
    model.metadata = {"columns": ["a", "b", "c"]}
    with tempfile.TemporaryDirectory() as folder:
        test_files.test_a_model_comes_back_to_the_bit(model, (X, y), Path(folder))


def averages():
    import test_averaging

    test_averaging.test_the_kernel_changes_its_lines_alone(9, 2, 7, "float64")
    for clip_norm in (None, 0.5):
        test_averaging.test_the_average_weighs_old_parameters_by_powers_of_the_decay(
            "one output", clip_norm, "float64"
        )
    test_averaging.test_the_average_is_what_is_validated_kept_and_returned(small())


def constraints():
    import test_constraint

    for shape in ((40, 64), (7, 130)):
        for turned, has_copy in itertools.product((False, True), repeat=2):
            test_constraint.test_units_beyond_the_norm_are_scaled_down(
                *shape, has_copy, turned, "float64"
            )


def layers():
    import test_layer_kernels

    for shape in ((9, 17), (13, 65)):
        for position in (0, 1000):
            test_layer_kernels.test_dropout_forward(shape, "float64", 0.25, position)
        test_layer_kernels.test_residual_backward(shape, "float64", 0)
        test_layer_kernels.test_layer_norm_forward(shape, "float64", True, True)
        test_layer_kernels.test_layer_norm_backward(shape, "float64", 0, True, True)


def resuming():
    import test_resume

    for name in ("nadam, plateaus, validation", "averages, clipping"):
        settings = {**test_resume.RUNS[name], "dtype": "float64"}
        model, result = test_resume.trained(None, *small(), **settings)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.safetensors"
            with pytest.raises(test_resume.Cut):
                test_resume.trained(path, *small(), cut_at=5, resume=True, **settings)
            other, whole = test_resume.trained(path, *small(), seed=9, resume=True, **settings)
        assert np.array_equal(other.parameters, model.parameters)
        assert np.array_equal(whole.history["loss"], result.history["loss"])
        assert np.array_equal(whole.history["learning_rate"], result.history["learning_rate"])


ROOMS = {
    room.__name__: room
    for room in (
        laws,
        optimizers,
        schedules,
        shuffles,
        gradients,
        gradients_of_large_batches,
        gradients_in_lanes,
        training,
        history,
        validation,
        scaling,
        reuse,
        predictions,
        refusals,
        divergence,
        files,
        averages,
        constraints,
        layers,
        resuming,
        workers,
        buffers,
        kernels,
        elementary,
    )
}
