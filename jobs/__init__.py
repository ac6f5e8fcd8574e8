"""Decisions: one thin file per command, and the recipes."""

from infra.settings import let_idle_threads_sleep

# Here, for every command and every script that fuses imports this first, and torch after it.
let_idle_threads_sleep()
