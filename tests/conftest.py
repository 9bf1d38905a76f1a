"""Prepares the process before any test module imports MXNet, as the scripts do: equal threads here and in them."""
import gc
import os

import pytest

from support import garbage, runtime

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
runtime.prepare()

# What `bash scripts/test.sh` leaves to `--all`: whole modules, and single tests, that take long.
SLOW = {
    "test_benchmarks", "test_evaluate_imagenet", "test_faults_command_lines", "test_faults_downloads",
    "test_faults_files", "test_faults_processes", "test_faults_training", "test_garbage", "test_install",
    "test_ops_build", "test_ops_limits", "test_rehearsal", "test_runner", "test_train_imagenet",
    "test_a_run_is_stopped_and_killed_and_comes_to_the_same_bits",
    "test_another_head_is_kept_and_all_else_is_loaded", "test_narrower_registers", "test_the_sanitizers_find_nothing",
    "test_the_same_bits_twice_and_with_any_number_of_threads",
    "test_200_steps_make_the_same_curve_and_both_answer_alike",
    "test_trained_nets_evaluate_the_same_both_ways", "test_a_checkpoint_of_one_way_goes_on_in_the_other",
    "test_no_flipped_bit_in_a_file_of_ours_changes_what_is_read",
    "test_publishing_that_fails_leaves_everything_as_it_was", "test_the_tables_of_the_readme_are_up_to_date",
    "test_shipped_weights_score_on_the_sample_what_is_recorded", "test_the_report_is_up_to_date",
}


def pytest_make_parametrize_id(val, argname):
    """Bytes go by their argument's name: an archive holds the time, and all processes must give a test one name."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW & {item.module.__name__, item.originalname}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
    """What a module's tests leave behind is gone before the next one starts."""
    yield
    gc.collect()
    garbage.trim()


@pytest.fixture(scope="session")
def fused_operators():
    """The fused operators, loaded into MXNet; compiled first where they are not and a compiler is there."""
    from ops import build, loader
    from support.errors import InputError

    if not build.sound(build.library()) and build.compiler() is None:
        pytest.skip("the fused operators are not built and there is no C++ compiler to build them")
    try:
        build.build()
    except InputError as error:  # a compiler that is too old, say; it is a fault wherever the setup has built them
        pytest.fail(str(error))
    loader.load()
