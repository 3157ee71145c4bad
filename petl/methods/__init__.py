"""The methods that can be placed. To add one: write its file, and add its line here."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from petlas.lazy import look_up

if TYPE_CHECKING:
    from petlas.petl.parts.method import AnyMethod

# In the order in which methods act on the same layer: reparameterisations before whatever follows them, and side
# networks, which read what has become of the stream, last.
METHODS: dict[str, str] = {
    "linear": "petlas.petl.methods.linear:Linear",
    "full": "petlas.petl.methods.full:Full",
    "partial": "petlas.petl.methods.partial:Partial",
    "bitfit": "petlas.petl.methods.bitfit:BitFit",
    "ln_tune": "petlas.petl.methods.ln_tune:LNTune",
    "gps": "petlas.petl.methods.gps:GPS",
    "sparse": "petlas.petl.methods.sparse:Sparse",
    "dora": "petlas.petl.methods.dora:DoRA",
    "glora": "petlas.petl.methods.glora:GLoRA",
    "lora": "petlas.petl.methods.lora:LoRA",
    "fact_tt": "petlas.petl.methods.fact:FacTTT",
    "fact_tk": "petlas.petl.methods.fact:FacTTK",
    "kadaptation": "petlas.petl.methods.kadaptation:KAdaptation",
    "ssf": "petlas.petl.methods.ssf:SSF",
    "hydra": "petlas.petl.methods.hydra:Hydra",
    "repadapter": "petlas.petl.methods.repadapter:RepAdapter",
    "linear_adapter": "petlas.petl.methods.linear_adapter:LinearAdapter",
    "u_tuning": "petlas.petl.methods.u_tuning:UTuning",
    "lorand": "petlas.petl.methods.lorand:LoRand",
    "adapter": "petlas.petl.methods.adapter:Adapter",
    "houlsby": "petlas.petl.methods.houlsby:Houlsby",
    "convpass": "petlas.petl.methods.convpass:Convpass",
    "convpass_attn": "petlas.petl.methods.convpass:ConvpassAttn",
    "conv_adapter": "petlas.petl.methods.conv_adapter:ConvAdapter",
    "sct": "petlas.petl.methods.sct:SCT",
    "adaptformer": "petlas.petl.methods.adaptformer:AdaptFormer",
    "pfeiffer": "petlas.petl.methods.pfeiffer:Pfeiffer",
    "adapter_plus": "petlas.petl.methods.adapter_plus:AdapterPlus",
    "mona": "petlas.petl.methods.mona:Mona",
    "snf": "petlas.petl.methods.snf:SNF",
    "bapat": "petlas.petl.methods.bapat:BAPAT",
    "prefix": "petlas.petl.methods.prefix:Prefix",
    "pad_prompt": "petlas.petl.methods.pad_prompt:PadPrompt",
    "vpt_shallow": "petlas.petl.methods.vpt_shallow:VPTShallow",
    "vpt": "petlas.petl.methods.vpt:VPT",
    "vqt": "petlas.petl.methods.vqt:VQT",
    "dtl": "petlas.petl.methods.dtl:DTL",
    "dtl_plus": "petlas.petl.methods.dtl:DTLPlus",
    "hst": "petlas.petl.methods.hst:HST",
    "lst": "petlas.petl.methods.lst:LST",
    "e3va": "petlas.petl.methods.e3va:E3VA",
    "last": "petlas.petl.methods.last:LAST",
}


@cache
def _method(home: str) -> AnyMethod:
    method: AnyMethod = look_up(home)()
    return method


def get_method(name: str) -> AnyMethod:
    """The method of that name; a method's file is imported when it is first asked for.

    Raises:
        KeyError: When no method has that name.
    """
    return _method(METHODS[name])


__all__ = ["METHODS", "get_method"]
