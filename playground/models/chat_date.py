"""The date that chat templates are told: always the same, so that a prompt is tomorrow what it is today.

Llama 3's template takes a ``date_string``. SmolLM3's and others' call ``strftime_now``, which no argument
replaces: a macro of that name before the template does. It adds no text, and knows the usual parts of a date.
"""

DATE_STRING = "26 Jul 2024"  # Llama 3's own default
_PARTS = {"%A": "Friday", "%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024"}
_FILLED = "".join(f".replace('{part}', '{value}')" for part, value in _PARTS.items())
STRFTIME_NOW = f"{{% macro strftime_now(format) %}}{{{{ format{_FILLED} }}}}{{% endmacro %}}\n"


def asked_for(template: str) -> bool:
    """Whether a chat template writes the date."""
    return "date_string" in template or "strftime_now" in template
