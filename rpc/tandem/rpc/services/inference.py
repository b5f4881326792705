"""The public services: inference and models."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from tandem.core.cache import Flushed
from tandem.core.inference import (
    DetokenizeRequest,
    GenerateRequest,
    Generation,
    ModelCard,
    StreamEvent,
    TokenizeRequest,
)
from tandem.inference.v1 import inference_pb2 as pb
from tandem.rpc.codec import cache, requests, responses
from tandem.rpc.context import CallContext
from tandem.rpc.serving import Service, streaming, unary

INFERENCE_SERVICE = "tandem.inference.v1.InferenceService"
MODEL_SERVICE = "tandem.inference.v1.ModelService"


class InferenceHandler(Protocol):
    """Serves requests. Methods raise Tandem's errors; a caller who leaves shows as cancellation."""

    async def generate(self, request: GenerateRequest, call: CallContext) -> Generation:
        """Run a request to its end."""
        ...

    def stream_generate(self, request: GenerateRequest, call: CallContext) -> AsyncIterator[StreamEvent]:
        """Run a request and yield its events; the iterator is closed when the caller leaves."""
        ...

    async def tokenize(self, request: TokenizeRequest, call: CallContext) -> Sequence[int]:
        """Return the tokens of a text or a conversation."""
        ...

    async def detokenize(self, request: DetokenizeRequest, call: CallContext) -> str:
        """Return the text of tokens."""
        ...

    async def flush_prefix_cache(self, call: CallContext) -> Flushed:
        """Forget every cached prefix of the caller's tenant."""
        ...


class ModelHandler(Protocol):
    """Tells which models are served."""

    async def list_models(self, call: CallContext) -> Sequence[ModelCard]:
        """Return the served models."""
        ...

    async def get_model(self, name: str, call: CallContext) -> ModelCard:
        """Return one model. Raises NotFound."""
        ...


def inference_service(handler: InferenceHandler) -> Service:
    """Return the inference service over ``handler``."""

    async def flush_prefix_cache(_: None, call: CallContext) -> Flushed:
        return await handler.flush_prefix_cache(call)

    path = f"/{INFERENCE_SERVICE}/"
    return Service(
        name=INFERENCE_SERVICE,
        methods={
            "Generate": unary(
                path + "Generate",
                pb.GenerateRequest,
                requests.decode_generate_request,
                handler.generate,
                responses.encode_generation,
            ),
            "StreamGenerate": streaming(
                path + "StreamGenerate",
                pb.GenerateRequest,
                requests.decode_generate_request,
                handler.stream_generate,
                responses.encode_stream_event,
            ),
            "Tokenize": unary(
                path + "Tokenize",
                pb.TokenizeRequest,
                requests.decode_tokenize_request,
                handler.tokenize,
                lambda token_ids: pb.TokenizeResponse(token_ids=token_ids),
            ),
            "Detokenize": unary(
                path + "Detokenize",
                pb.DetokenizeRequest,
                requests.decode_detokenize_request,
                handler.detokenize,
                lambda text: pb.DetokenizeResponse(text=text),
            ),
            "FlushPrefixCache": unary(
                path + "FlushPrefixCache",
                pb.FlushPrefixCacheRequest,
                lambda _: None,
                flush_prefix_cache,
                cache.encode_own_flushed,
            ),
        },
    )


def model_service(handler: ModelHandler) -> Service:
    """Return the model service over ``handler``."""

    async def list_models(_: None, call: CallContext) -> Sequence[ModelCard]:
        return sorted(await handler.list_models(call), key=lambda card: card.name)

    path = f"/{MODEL_SERVICE}/"
    return Service(
        name=MODEL_SERVICE,
        methods={
            "ListModels": unary(
                path + "ListModels",
                pb.ListModelsRequest,
                lambda _: None,
                list_models,
                lambda cards: pb.ListModelsResponse(models=[responses.encode_model_card(card) for card in cards]),
            ),
            "GetModel": unary(
                path + "GetModel",
                pb.GetModelRequest,
                lambda message: message.name,
                handler.get_model,
                lambda card: pb.GetModelResponse(model=responses.encode_model_card(card)),
            ),
        },
    )
