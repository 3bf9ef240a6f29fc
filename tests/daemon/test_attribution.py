"""Which GPUs is a stage charged for, and how sure is that?"""

from __future__ import annotations

from energyd.attribution import Known, charge, narrow
from energyd_client.protocol import ProcessInfo

A = Known(0, "GPU-aaaa", "gpu", "H100", 0)
B = Known(1, "GPU-bbbb", "gpu", "H100", 1)
OTHER = Known(2, "GPU-cccc", "gpu", "A100", 2)
CPU = Known(9, "rapl:package-0", "cpu", "Xeon")


def process(**facts: object) -> ProcessInfo:
    return ProcessInfo(1, 1, **facts)  # type: ignore[arg-type]


def test_without_a_word_all_gpus_are_charged_and_said_so() -> None:
    assert charge(None, process(), [A, B, CPU]) == ([0, 1, 9], {"devices_default"})
    assert charge(None, None, [A, CPU]) == ([0, 9], set())


def test_the_caller_names_devices_by_index_uuid_or_prefix() -> None:
    assert charge(["1"], process(visible_devices="0"), [A, B, CPU]) == ([1, 9], set())
    assert charge(["GPU-aa"], None, [A, B, CPU]) == ([0, 9], set())
    assert charge(["GPU-"], None, [A, B]) == ([0, 1], {"device_guess"})


def test_a_device_that_is_not_there_is_flagged_and_not_replaced() -> None:
    assert charge(["7"], None, [A, CPU]) == ([9], {"devices_unknown"})


def test_cuda_visible_devices_chooses_and_stops_at_the_first_invalid_entry() -> None:
    assert charge(None, process(visible_devices="1"), [A, B])[0] == [1]
    assert charge(None, process(visible_devices="1,-1,0"), [A, B])[0] == [1]
    assert charge(None, process(visible_devices=""), [A, B, CPU]) == ([9], set())


def test_torchs_own_uuids_win_over_the_environment() -> None:
    assert charge(None, process(visible_devices="0,1", gpu_uuids=["GPU-bbbb"]), [A, B]) == ([1], set())


def test_indices_on_mixed_models_are_a_guess_unless_in_pci_order() -> None:
    assert charge(None, process(visible_devices="2"), [A, OTHER])[1] == {"device_guess"}
    assert charge(None, process(visible_devices="2", device_order="PCI_BUS_ID"), [A, OTHER])[1] == set()
    assert charge(None, process(visible_devices="GPU-cccc"), [A, OTHER]) == ([2], set())


def test_a_mig_id_is_charged_to_its_parent_and_flagged() -> None:
    mig = Known(0, "GPU-aaaa", "gpu", "H100", 0, mig=True)
    assert charge(None, process(visible_devices="MIG-GPU-aaaa/1/0"), [mig, B]) == ([0], {"mig"})
    assert charge(None, process(visible_devices="MIG-0123"), [mig, B]) == ([0], {"mig"})


def test_an_instances_uuid_as_torch_gives_it_is_charged_to_the_gpus_with_mig() -> None:
    mig = Known(0, "GPU-aaaa", "gpu", "H100", 0, mig=True)
    assert charge(None, process(gpu_uuids=["GPU-0123"]), [mig, B, CPU]) == ([0, 9], {"mig"})
    assert charge(None, process(gpu_uuids=["GPU-bbbb"]), [mig, B]) == ([1], set())
    other = Known(3, "GPU-dddd", "gpu", "H100", 3, mig=True)
    assert charge(None, process(gpu_uuids=["GPU-0123"]), [mig, other]) == ([0, 3], {"mig", "device_guess"})
    told = process(gpu_uuids=["MIG-GPU-dddd/1/0"])  # as the client names an instance
    assert charge(None, told, [mig, other]) == ([3], {"mig"})
    assert charge(None, process(gpu_uuids=["GPU-0123"]), [A, B]) == ([], {"devices_unknown"})


def test_devices_narrow_only_if_nvml_listed_the_process_somewhere() -> None:
    assert narrow([0, 1, 9], {1: True}, [A, B, CPU]) == [1, 9]
    assert narrow([0, 1, 9], {}, [A, B, CPU]) == [0, 1, 9]
