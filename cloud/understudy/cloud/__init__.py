"""The cloud: gateway, teacher engines, escalation log, release repository, enrolment, quotas."""
