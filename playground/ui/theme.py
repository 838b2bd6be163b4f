"""The page's look: system fonts, two family colours, light and dark."""

import gradio as gr

from playground.settings import ASSETS

SANS = (
    "ui-sans-serif",
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Arial",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

INK = gr.themes.Color(
    c50="#f4f6f8", c100="#e8ecf0", c200="#d5dce3", c300="#b6c1cc", c400="#8b99a8", c500="#667585",
    c600="#4b5968", c700="#364250", c800="#202a35", c900="#161d26", c950="#0e141b",
)  # fmt: skip
TEAL = gr.themes.Color(
    c50="#edf8f7", c100="#d3eeeb", c200="#a8ddd8", c300="#74c6bf", c400="#3fa9a2", c500="#178a84",
    c600="#0f706c", c700="#0d5a57", c800="#0c4846", c900="#0a3b3a", c950="#052423",
)  # fmt: skip


def theme() -> gr.themes.Base:
    """The theme; nothing in it is loaded from another host."""
    return gr.themes.Base(
        primary_hue=TEAL,
        secondary_hue=TEAL,
        neutral_hue=INK,
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="#f6f8f9",
        body_background_fill_dark="#0f151c",
        body_text_color="#1b2530",
        body_text_color_dark="#e4eaf0",
        body_text_color_subdued="#566473",
        body_text_color_subdued_dark="#9aa8b7",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#161e27",
        background_fill_secondary="#f1f4f6",
        background_fill_secondary_dark="#1c2530",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_color="#dfe5ea",
        block_border_color_dark="#2a3542",
        border_color_primary="#d8dfe6",
        border_color_primary_dark="#2d3947",
        block_padding="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="#45535f",
        block_label_text_color_dark="#a9b6c4",
        block_label_text_weight="600",
        block_title_text_color="#2a3744",
        block_title_text_color_dark="#cdd7e1",
        block_title_text_weight="600",
        block_title_text_size="13px",
        block_info_text_color="#5d6b79",
        block_info_text_color_dark="#94a2b1",
        block_info_text_size="12.5px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#121922",
        input_border_color="#c9d2db",
        input_border_color_dark="#33404f",
        input_border_color_focus="#178a84",
        input_border_color_focus_dark="#3fa9a2",
        input_shadow_focus="0 0 0 3px rgba(23,138,132,.16)",
        input_shadow_focus_dark="0 0 0 3px rgba(63,169,162,.22)",
        input_border_width="1px",
        input_border_width_dark="1px",
        checkbox_label_padding="6px 10px",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_hover="*background_fill_secondary",
        checkbox_label_background_fill_hover_dark="*background_fill_secondary",
        input_radius="8px",
        block_radius="10px",
        button_large_radius="8px",
        button_medium_radius="8px",
        button_small_radius="7px",
        button_primary_background_fill="#0f706c",
        button_primary_background_fill_hover="#0d5a57",
        button_primary_background_fill_dark="#1d958e",
        button_primary_background_fill_hover_dark="#25a59e",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#04201f",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#eef2f5",
        button_secondary_background_fill_dark="#1c2530",
        button_secondary_background_fill_hover_dark="#243040",
        button_secondary_border_color="#c9d2db",
        button_secondary_border_color_dark="#35424f",
        button_secondary_text_color="#1b2530",
        button_secondary_text_color_dark="#e4eaf0",
        button_border_width="1px",
        button_large_text_weight="600",
        button_medium_text_weight="600",
        slider_color="#178a84",
        slider_color_dark="#3fa9a2",
        link_text_color="#0f706c",
        link_text_color_dark="#6cc9c2",
        panel_background_fill="transparent",
        panel_background_fill_dark="transparent",
    )


def css() -> str:
    """The page's own style sheet."""
    return (ASSETS / "style.css").read_text(encoding="utf-8")


def head() -> str:
    """What goes into the page's head: the page's own few lines of JavaScript."""
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    return f'<meta name="referrer" content="no-referrer"><script>{script}</script>'
