"""Answers without a name: refusals, placeholders, "there is no bird", and prose in a language that is not parsed.

Every rule looks at the beginning or the whole of an answer, or at words that never end a name: "I Can't Believe
It's Not Butter!", "Sorry! board game", "No Name chips" and "Unknown Pleasures" are names.
"""

from __future__ import annotations

import re

from fgvr.names.name_text import begins_with_title
from fgvr.names.spelling import spelling_key

_KIND = (
    r"(?:bird|animal|insect|fish|dog|cat|plant|flower|tree|fungus|mushroom|car|vehicle|aircraft|airplane|plane|"
    r"object|thing|"
    r"item|product|subject|person|people|food|species|breed|class|label|category|type|kind|brand|model|make|"
    r"variety|name|"
    r"image|photo|picture|answer|match|logo|text|content|entity|specimen|creature|identity|information|details?|"
    r"clear|"
    r"specific|particular|identifiable|recogni[sz]able|discernible|visible|distinct|single|main|known|such|"
    r"fine[ -]grained|matching|suitable|appropriate|to\s+me)s?"
)
_SCENE = r"(?:image|photo|picture|photograph|frame|scene|view|shot)"
_CANNOT_DO = (
    r"(?:identif|determin|recogni|classif|tell\b|say\b|see\b|help\b|assist|provid|view|be\s+(?:certain|sure|"
    r"identif|determin|"
    r"recogni|classif|seen)|process|make\s+out|comply|give\b|name\b|confirm|discern|distinguish|answer|describe|"
    r"access|"
    r"analy|label|detect|find\b|offer|specify|pinpoint|know\b|perform|do\s+that|fulfil|with\b|it\b)"
)
_CANNOT = (
    r"(?:can['’]?t|cannot|can\s+not|could\s+not|couldn['’]?t|am\s+(?:unable|"
    r"not\s+able)\s+to|['’]m\s+(?:unable|not\s+able)\s+to)"
)
_REFUSED = re.compile(
    rf"^(?:unfortunately,?\s+|well,?\s+|hmm+,?\s+)?(?:(?:i['’]?m|i\s+am)\s+(?:so\s+|very\s+|really\s+)?(?:sorry|"
    rf"afraid)\b|"
    r"sorry\s*(?:[,.;:–—-]|but\b|i\b|about|for\b|$)|sorry!\s+I\b|(?:my\s+)?apologi[sz]e|i\s+apologi[sz]e|"
    r"(?:my\s+)?apologies\b|"
    r"as\s+an?\s+(?:ai|large|language)\b|(?:(?:i['’]?m|i\s+am)\s+)?not\s+(?:entirely\s+|quite\s+|really\s+)?sure\b|"
    r"(?:i['’]?m|i\s+am)\s+(?:unsure|uncertain|unable|not\s+able|not\s+certain)|"
    rf"i\s+{_CANNOT}\s+(?:\w+ly\s+)?{_CANNOT_DO}|i{_CANNOT}\s+{_CANNOT_DO}|i\s+(?:do\s+not|don['’]?t)\s+(?:know|"
    rf"have|recogni|think\s+i|see)|"
    r"i\s+(?:won['’]?t|will\s+not)\s+be\s+able|i\s+would\s+need|(?:i\s+have\s+)?no\s+idea\b|unable\s+to\s|unsure\b|"
    rf"(?:it\s+)?{_CANNOT}\s+(?:be\s+)?(?:\w+ly\s+)?(?:identif|determin|recogni|classif|tell|say|see\b|discern|"
    rf"confirm)|"
    r"not\s+(?:possible\s+to|applicable|available|identifiable|identified|determinable|determined|recogni[sz]able|"
    r"discernible|"
    r"clear\b(?:\s+enough|$)|enough\s+|specified$|provided$|known$)|"
    r"impossible\s+to\s|(?:it\s+is\s+|it['’]s\s+)?(?:too\s+)?(?:difficult|hard)\s+to\s+(?:say|tell|identif|"
    r"determin|see|make|recogni|be)|"
    r"insufficient\s+(?:information|detail|data)|more\s+(?:information|details?|context)\s+(?:is|are)\s+needed|"
    r"(?-i:[Cc]an|[Cc]ould|[Ww]ould|[Ww]ill|[Mm]ay)\s+(?-i:you|I)\s+(?-i:please|share|provide|upload|send|give|show|"
    r"have|try)\b|"
    r"(?-i:[Ii])\s+(?-i:won['’]?t|will\s+not|must|need\s+(?:more|an?y?|the)|have\s+(?:no|to)|decline)\s|"
    r"(?-i:(?:[Mm]ore|[Ff]urther|[Aa]dditional)\s+(?:\w+\s+){1,2}(?:needed|required))|"
    r"(?:request|access|image|input)\s+(?-i:denied|rejected|failed|error|unavailable)|error\s*[:!]|"
    r"(?:please\s+)?(?:provide|upload|share|send)\s+(?:an?\s+|the\s+|a\s+clearer\s+)?(?:image|photo|picture)|"
    rf"(?:the\s+)?(?:{_SCENE}\s+is\s+)?too\s+(?:blurry|blurred|dark|small|low|far|unclear|bright))",
    re.IGNORECASE,
)
_REFUSED_ANYWHERE = re.compile(
    rf"\bi\s*{_CANNOT}\s+(?:\w+ly\s+)?(?:identif|determin|recogni|classif|tell|say|help|assist|provide|see|view)|"
    r"\b(?:cannot|can['’]?t|could\s+not)\s+be\s+(?:\w+ly\s+)?(?:identif|determin|recogni|classif)|"
    r"\bunable\s+to\s+(?:identif|determin)|\bunclear\b|\b(?:poor|low)\s+(?:quality|resolution)|"
    r"\bnot\s+possible\s+to\b|\bimpossible\s+to\b|\bi\s+don['’]?t\s+know\b|\b(?:difficult|hard)\s+to\s+(?:say|tell|"
    r"identif|determin)|"
    r"\bas\s+an\s+ai\b|\bnot\s+(?:clear\s+enough|enough)\b|\btoo\s+blurry\b|\bnot\s+(?:identifiable|"
    r"recogni[sz]able)\b",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"^(?:an?\s+|the\s+|some\s+|other\s*[/,]?\s+|other/)?(?:unknown|unidentified|unidentifiable|indeterminate|"
    r"indistinguishable|"
    r"undetermined|unspecified|"
    rf"unrecogni[sz]able|unrecogni[sz]ed|unclear|uncertain|unclassified|undefined|"
    rf"unlabell?ed)(?:[\s,/–-]+(?:{_KIND}|or|and|of|unknown|unclear|"
    rf"unidentified|other))*"
    rf"(?:\s*[(\[].*)?[.!]?$|^(?:the\s+)?(?:{_KIND}\s+){{1,2}}(?-i:(?:is\s+)?(?:unknown|unclear|uncertain|"
    rf"unidentified))[.!]?$|"
    r"^(?:unknown|unidentified|unclear|uncertain)\s*[,;:–—-]",
    re.IGNORECASE,
)
_GENERIC_NO = rf"no\s+(?:\w+ly\s+)?(?:{_KIND}\s+){{0,3}}{_KIND}"
_SEEN = (
    r"(?:visible|present|shown|seen|detected|found|identified|depicted|"
    r"there|here|available|provided|recogni[sz]able|discernible)"
)
_NOTHING = re.compile(
    rf"^(?:n/?a\s*[-–—:,(]\s*)?(?:(?:in|from)\s+(?:this|the)\s+(?:provided\s+|given\s+)?{_SCENE},?\s+)?"
    rf"(?:{_GENERIC_NO}\s*(?:[.!)]*$|[,;(–—-]|{_SEEN}|(?:is|are|was|can\s+be|could\s+be|to\s+be)\s|in\s+(?:the|"
    rf"this)\s|to\s+)|"
    rf"no\s+(?:\w+\s+){{1,4}}{_SEEN}\b|"
    rf"no\s+(?:\w+\s+){{1,4}}(?:is|are|can\s+be|could\s+be)\s+(?:\w+ly\s+)?{_SEEN}\b|"
    rf"no\s+(?:\w+\s+){{1,3}}in\s+(?:the|this)\s+{_SCENE}\b|"
    rf"there\s+(?:does|do|did)\s*(?:not|n['’]?t)\s+(?:appear|seem)|"
    rf"nothing\s+(?-i:to\s+|relevant|recogni[sz]able|of\s+interest)|[Nn]o\s+(?-i:(?:[a-z]+\s+){{1,2}}){_KIND}[.!]?$|"
    rf"(?:it|this|that)(?:\s+is\s+not|\s+isn['’]t|\s+does\s+not\s+(?:appear|seem)\s+to\s+be|"
    rf"\s+doesn['’]t\s+(?:appear|seem|look)"
    rf"\s+(?:to\s+be|like))\s+an?\s+(?:{_KIND}\s+)*{_KIND}[.!]?$|"
    rf"(?:the|an?y?|only|just)\s+(?:(?:main|requested)\s+)?(?:{_KIND}|background|backdrop)\s+(?-i:(?:is|are|"
    rf"was)\s+(?:not\s+)?(?:\w+ly\s+)?{_SEEN}|"
    rf"(?:isn|aren|wasn)['’]t\s+(?:\w+ly\s+)?{_SEEN}|(?:can\s?not|can['’]?t)\s+be\s+(?:seen|found))[.!]?(?:$|\s+in\s)|"
    rf"there\s*(?:is|['’]s|are|was|were|seems?\s+to\s+be|appears?\s+to\s+be)\s+(?:no\b(?!\s+doubt|\s+question)|"
    rf"not\s+an?y?\b|n['’]t\s+an?y?\b|nothing\b)|"
    r"there\s+(?:isn|aren)['’]t\s+an?y?\b|"
    rf"none\s+of\s+(?:the\s+(?:above|options|given|listed|classes|labels|choices|names)|these|them|those)\b|"
    rf"neither\b|"
    rf"nothing\s+(?:is\s+)?(?:{_SEEN}|to\s+see|in\s+(?:the|this)\s|can\s+be|specific|identifiable|there)|"
    rf"(?:(?:it|this|that)(?:\s+is|['’]s)\s+|is\s+)?not\s+an?\s+(?:{_KIND}\s+)*{_KIND}(?:\s*(?:[.,;(–—-]|at\s+all|"
    rf"in\s)|[.!]?$)|"
    rf"not\s+(?:visible|present|shown|seen|depicted|found|detected|in\s+(?:the|this)\s)|"
    rf"(?:the\s+|an?\s+|this\s+is\s+an?\s+|it['’]s\s+an?\s+)?(?:(?:completely|mostly|entirely|just|all|too|very|"
    rf"extremely|almost|plain|solid|only)\s+)*"
    rf"(?:blank|empty|blurry|blurred|dark|black|white|gr[ae]y|corrupt(?:ed)?|unclear|out[- ]of[- ]focus|"
    rf"overexposed|underexposed|"
    rf"unreadable|broken|missing|pixelated|noisy|low[- ](?:quality|resolution))\s+(?:(?:white|black|empty|"
    rf"gr[ae]y)\s+)?{_SCENE}[.!]?$|"
    rf"(?:the\s+|this\s+)?(?:provided\s+)?{_SCENE}\s+(?:is|appears(?:\s+to\s+be)?|seems(?:\s+to\s+be)?|"
    rf"looks)\s+(?:\w+ly\s+)?"
    rf"(?:blank|empty|black|white|all\s+\w+|corrupt|dark\b|missing|unreadable|not\s+(?:visible|loading|available|"
    rf"provided))|"
    rf"(?:the\s+|this\s+)?(?:provided\s+)?{_SCENE}\s+(?:does\s+not|doesn['’]t|do\s+not)\s+(?:\w+ly\s+)?(?:contain|"
    rf"show|depict|include|feature|have|display)|"
    rf"(?:the\s+|this\s+)?(?:provided\s+)?{_SCENE}\s+(?:contains|shows|depicts)\s+(?:no\b|nothing\b)|"
    rf"i\s+(?:(?:do\s+not|don['’]?t|can['’]?t|cannot)\s+see\s+(?:an?y?\b|the\b|anything)|see\s+(?:no\b|nothing\b)))",
    re.IGNORECASE,
)
_PLACEHOLDERS = frozenset(
    """unknown|unknown species|unidentified|unclear|unsure|undetermined|unspecified|uncertain|none|null|nil|nothing|no|
    yes|nan|na|n a|idk|object|image|photo|picture|label|class|name|species|answer|unlabeled|unlabelled|not sure|
    not applicable|not available|no label|no answer|no idea|no object|not visible|not identifiable|not shown|tbd|
    undefined|dunno|no clue|not certain|other unknown|species unknown|anything|something|
    invisible|indeterminate|string|text|your answer|label name|class name|class label|
    fine grained class label""".replace("\n    ", "").split("|")
)
_ABSENT = frozenset(
    {
        "not visible",
        "not shown",
        "nothing",
        "invisible",
        "no object",
        "blank",
        "absent",
        "nobody",
        "out of frame",
        "not there",
    }
)

_LANGUAGES = {  # a subject and a finite verb, or a phrase with which only statements about a photo begin
    "German": r"(?:(?:vermutlich|wahrscheinlich|möglicherweise|leider)\s+(?-i:ein|kann|ist|nicht)|man\s+sieht|"
    r"es\s+tut\s+mir|"
    r"ich\s+weiß|kein(?:e|en)?\b.{0,40}\b(?:sichtbar|erkennbar|zu\s+sehen)|unbekannt$)\b|(?:das|dies(?:e[rsnm]?)?|es|"
    r"der|die|auf\s+dem|auf\s+diesem|ich|hier|im)\b.{0,60}?\b(?:ist|sind|"
    r"zeigt|zeigen|handelt|sieht|sehe|"
    r"glaube|denke|vermute|scheint|könnte|dürfte|wird|befindet)\b",
    "Dutch": r"(?:ik\s+weet|helaas)\b|(?:de|het|dit|deze|op|ik|er)\b.{0,60}?\b(?:is|zijn|toont|lijkt|zie|denk|"
    r"staat)\b(?=\s+(?:een|de|het|"
    r"op|dat|te|waarschijnlijk)\b)",
    "French": r"(?:je\s+(?:ne|suis)|désolé|malheureusement|sur\s+(?:cette|la|l)\b.{0,40}\b(?:voi[rt]|est)|"
    r"inconnu$)\b|(?:c['’]est|il\s+s['’]agit|on\s+(?:voit|peut)|je\s+(?:pense|crois|vois|dirais)|voici|(?:l['’]image|"
    r"la\s+photo|cette|cet|ce|le|la|"
    r"l['’]oiseau|l['’]animal)\b.{0,60}?\b(?:est|sont|montre|représente|semble|ressemble|s['’]agit)\b)",
    "Spanish": r"(?:no\s+lo|lo\s+siento|no\s+puedo|desconocido$)\b|(?:se\s+trata|es\s+una?\b|creo\s+que|"
    r"parece\s+(?:ser|una?)|podría\s+ser|(?:la\s+imagen|la\s+foto|"
    r"en\s+la|est[aeo]|el|la)\b.{0,60}?\b"
    r"(?:es|son|muestra|parece|representa|ve)\b)",
    "Portuguese": r"(?:não\s+(?:sei|é|consigo|posso)|desculpe|desconhecido$)\b|(?:trata-se|é\s+uma?\b|acho\s+que|"
    r"parece\s+(?:ser|uma?)|(?:a\s+imagem|a\s+foto|est[ae]|isto|"
    r"isso|o|a|na)\b.{0,60}?\b(?:é|são|mostra|"
    r"parece|representa)\b)",
    "Italian": r"(?:non\s+(?:lo|so|posso|riesco)|mi\s+dispiace|nella\s+(?:foto|figura|immagine)\b.{0,30}\bvede|"
    r"sconosciuto$)\b|(?:si\s+tratta|è\s+una?\b|credo\s+(?:che|sia)|sembra\s+(?:essere|una?)|(?:l['’]immagine|"
    r"la\s+foto|"
    r"nella|quest[aoi]|il|lo|la)\b.{0,60}?\b"
    r"(?:è|sono|mostra|sembra|raffigura|rappresenta)\b)",
    "Scandinavian": r"(?:det(?:te|ta)?|bild(?:en|et)|billedet|den|jag|jeg)\b.{0,50}?\b(?:är|er|visar|viser|ser|"
    r"tror)\b(?=\s+(?:en|ett|et|ei|ut|det|at|att)\b)",
    "Finnish": r"(?:tämä|kuvassa|se|kuva)\b.{0,40}?\b(?:on|näkyy|näyttää|esittää)\b",
    "Polish": r"(?:to\s+jest|na\s+(?:zdjęciu|obrazku|obrazie)|zdjęcie|obraz(?:ek)?)\b(?:.{0,40}?\b(?:jest|widać|"
    r"widoczny|widoczna|przedstawia|pokazuje)\b)?",
    "Czech": r"(?:na\s+(?:obrázku|snímku|fotografii)|(?:tohle|toto|to)\s+je\b|obrázek\s+(?:ukazuje|zobrazuje))",
    "Croatian": r"(?:ovo\s+je|na\s+(?:slici|slike|fotografiji))\b",
    "Turkish": r"(?:bu\s+bir\b|bu\b.{0,60}?\b\w+(?:dır|dir|dur|dür|tır|tir|tur|tür)\b|bu\s+(?:resim|görsel|fotoğraf)|"
    r"(?:görselde|resimde|fotoğrafta)\b)",
    "Indonesian": r"(?:ini\s+adalah|gambar\s+(?:ini|tersebut)|(?:dalam|pada)\s+gambar)\b",
    "Vietnamese": r"(?:đây\s+là|hình\s+ảnh|bức\s+ảnh|trong\s+(?:ảnh|hình))\b",
    "Hungarian": r"(?:ez\s+egy|a\s+képen|a\s+kép\b)",
    "Romanian": r"(?:aceasta\s+este|acesta\s+este|este\s+un|este\s+o\b|în\s+imagine|imaginea\s+(?:arată|prezintă))",
    "Russian": r"(?:я\s+не\s|не\s+знаю|неизвестно|извините)|(?:это|на\s+(?:изображении|фото|фотографии|картинке|"
    r"снимке)|изображ\w+|я\s+(?:думаю|считаю|"
    r"вижу))(?!\w).*\s",
    "Bulgarian": r"(?:това\s+е|на\s+снимката)(?!\w)",
    "Serbian": r"(?:ово\s+је|на\s+слици)(?!\w)",
    "Ukrainian": r"(?:це|на\s+(?:зображенні|світлині|фотографії)|зображен\w+)(?!\w).*\s",
    "Greek": r"(?:αυτ[όήάο]ς?\s+είναι|η\s+εικόνα|στην\s+εικόνα|είναι\s+(?:ένα|μια|ένας))",
    "Hebrew": r"(?:זה|זו|זהו|זוהי|בתמונה|התמונה)(?!\w)",
    "Arabic": r"(?:هذا|هذه|الصورة|في\s+الصورة|تُ?ظهر)(?!\w)",
    "Persian": r"(?:این|در\s+تصویر|تصویر)(?!\w)",
    "Hindi": r"(?:यह|इस|चित्र|तस्वीर).*(?:है|हैं)",
    "Bengali": r"(?:এটি|এটা|ছবি).*।?$",
    "Tamil": r"(?:இது|படத்தில்)\s",
    "Thai": r"(?:นี่คือ|ภาพ(?:นี้|ถ่าย)|ใน(?:ภาพ|รูป))",
    "Korean": r".*(?:입니다|이에요|예요|보입니다|있습니다|없습니다|모르겠습니다|모릅니다|같습니다)",
    "Japanese": r"(?:わかりません|分かりません|不明(?:です)?[。.]?$)|.*(?:思われます|ません)[。.]?$|"
    r"(?:これは|この(?:画像|写真|鳥|花|車|動物|犬|商品)|(?:画像|写真)(?:に|は|の)).+|.+(?:です|ます|でしょう)[。.]?$",
    "Chinese": r"(?:抱歉|对不起|無法|无法|不知道|我不|未知$|答案是|"
    r"(?:该|該).*是|没有)|(?:这|這|那)(?:是|张|張|只|隻|个|個|种|種|幅|辆|輛|朵|款|些|"
    r"里|裡).+|(?:图|圖)(?:中|片|像|里|裡|上).+|(?:照片|画面|"
    r"畫面).+(?:是|显示|顯示)|"
    r"(?:根据|根據|我认为|我認為|看起来|看起來|它是|可能是|应该是|"
    r"應該是).+|.*(?:是一|，|。).*[是有为為].*",
}
_STATEMENTS = {name: re.compile(pattern) for name, pattern in _LANGUAGES.items()}
_LETTERS = re.compile(r"[^\W\d_]")


def is_placeholder(name: str) -> bool:
    """Whether a name is only a placeholder: "Unknown", "N/A", "class label"."""
    return spelling_key(name) in _PLACEHOLDERS or _UNKNOWN.match(name) is not None


def _is_titled(text: str, words: int = 3) -> bool:
    """Whether an answer is a title and so a name: "There Is Nothing Left to Lose", but not "No Bird Visible"."""
    line = text.strip(" \n*#_\"'“").split("\n", 1)[0]
    if re.match(r"(?:no|not|none|nothing|un\w+|blank|empty)\b", line, re.IGNORECASE) or line.isupper():
        return False
    return begins_with_title(line, words) and len(line.split()) >= words


def is_refusal(text: str) -> bool:
    """Whether an answer begins by saying that the model does not know or will not say."""
    return not _is_titled(text) and _REFUSED.match(text.lstrip(" \"'“*_#")) is not None


def mentions_refusal(text: str) -> bool:
    """Whether an answer in which no name was found says anywhere that the model does not know."""
    return _REFUSED_ANYWHERE.search(text) is not None


def says_nothing_there(text: str) -> bool:
    """Whether an answer says that the photo shows nothing of the kind, or nothing at all."""
    first_line = text.lstrip(" \"'“*_#([\n").split("\n", 1)[0]
    return spelling_key(text) in _ABSENT or (_NOTHING.match(first_line) is not None and not _is_titled(text))


def foreign_language(text: str) -> str | None:
    """The language of a statement that is not in English; None for English, and for what may be a name alone.

    Names are accepted in any language; only text with the subject and verb of a statement is rejected.
    """
    line = text.strip(' \n"“„«(¡¿*').split("\n", 1)[0][:300]
    if len(_LETTERS.findall(line)) < 3 or _is_titled(text, words=2):
        return None
    line = line[:1].lower() + line[1:]  # what has capitals inside may be part of a name: "A photo of São Paulo Coffee"
    return next((name for name, pattern in _STATEMENTS.items() if pattern.match(line)), None)
