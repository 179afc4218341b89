"""OpenAI-compatible servers, as captions and features ask them."""
