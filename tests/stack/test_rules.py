"""The alerts of `tests/test_rules.py`, replayed by the newest promtool."""

from pathlib import Path

import pytest

from tests.stack.build import binary
from tests.test_rules import (
    test_a_slower_burn_pages_within_hours,
    test_a_smouldering_fire_is_a_ticket_and_no_page,
    test_a_whole_bound_is_found_in_both_spellings,
    test_alerts_agree_with_a_count_of_minutes,
    test_an_alert_tells_numbers_and_leads_to_its_service_and_time,
    test_an_incident_pages_within_minutes_and_clears_minutes_after,
    test_clients_that_leave_alert_nobody_and_hide_nothing,
    test_one_error_in_ten_requests_at_night_wakes_nobody,
    test_services_with_objectives_of_their_own_do_not_mind_each_other,
    test_the_file_is_valid_means_what_the_data_says_and_names_the_command_that_writes_it,
    test_what_fails_burns_availability_once_and_latency_never,
    test_what_has_no_bucket_of_the_bound_does_not_count_as_slow,
    test_what_the_objective_allows_alerts_nobody,
    test_without_requests_there_is_neither_an_alert_nor_a_number,
)

__all__ = [
    "test_a_slower_burn_pages_within_hours",
    "test_a_smouldering_fire_is_a_ticket_and_no_page",
    "test_a_whole_bound_is_found_in_both_spellings",
    "test_alerts_agree_with_a_count_of_minutes",
    "test_an_alert_tells_numbers_and_leads_to_its_service_and_time",
    "test_an_incident_pages_within_minutes_and_clears_minutes_after",
    "test_clients_that_leave_alert_nobody_and_hide_nothing",
    "test_one_error_in_ten_requests_at_night_wakes_nobody",
    "test_services_with_objectives_of_their_own_do_not_mind_each_other",
    "test_the_file_is_valid_means_what_the_data_says_and_names_the_command_that_writes_it",
    "test_what_fails_burns_availability_once_and_latency_never",
    "test_what_has_no_bucket_of_the_bound_does_not_count_as_slow",
    "test_what_the_objective_allows_alerts_nobody",
    "test_without_requests_there_is_neither_an_alert_nor_a_number",
]


@pytest.fixture
def promtool() -> Path:
    """In the place of Debian's, which `tests/test_rules.py` takes."""
    return binary("promtool")
