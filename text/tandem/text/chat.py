"""Chat templates: the names other components use.

`ChatTemplate` is what the model folder holds; `ChatRenderer` renders it under limits, and is what a server uses.
"""

from tandem.core.types import ChatMessage
from tandem.text.chat_renderer import ChatLimits, ChatRenderer, ChatTemplateFailed, ChatTemplateTimeout
from tandem.text.chat_template import ChatTemplate, Scalar

__all__ = [
    "ChatLimits",
    "ChatMessage",
    "ChatRenderer",
    "ChatTemplate",
    "ChatTemplateFailed",
    "ChatTemplateTimeout",
    "Scalar",
]
