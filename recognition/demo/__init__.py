"""A page on this machine that shows what a model makes of faces, before and after its adaptation. docs/demo.md."""

INSTALL = 'the demo needs gradio: pip install "lrface[demo]", or pip install "gradio>=6,<7"'
