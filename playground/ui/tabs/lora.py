import gradio as gr


def build(session, pulse=None):
    gr.HTML("soon")
