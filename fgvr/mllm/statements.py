"""What statements about a photo look like: "The bird in the image appears to be a …", "I would label this as …".

Each pattern has the groups `prefix` (articles and hedges before the name) and `name` (the name and all that follows).
"""

from __future__ import annotations

import re

ARTICLE = r"(?:an?|the|some|one)\s+"
HEDGE = (
    r"(?:most|very|quite|indeed|actually|almost\s+certainly|certainly|likely|probably|possibly|perhaps|definitely|"
    r"clearly|maybe|"
    r"commonly|specifically|either|simply|just|best|identified\s+as|classified\s+as|known\s+as|called|named|"
    r"described\s+as|considered|labell?ed(?:\s+as)?|"
    r"believed\s+to\s+be|thought\s+to\s+be|(?:an?\s+|the\s+)?(?:type|kind|variet(?:y|ies)|species|breed|example|"
    r"members?|"
    r"cultivars?|hybrid|photo|photograph|picture|image|close-up|(?:rear|front|side|back)(?:\s+view)?|view|pair|"
    r"group|bunch|clusters?|"
    r"characteristics|features|appearance|description|head|bottle|box|pack|packet|package|can|bag|jar)s?\s+of|"
    r"(?:of|from|to)\s+the\s+(?:species|genus|variety|breed|family|"
    r"model)|the\s+(?:species|genus|breed)|those\s+of|that\s+of|of)\s+"
)
COPULA = (
    r"(?:is|are|was|would\s+be|appears?\s+to\s+(?:be|match|show|belong\s+to)|seems?\s+to\s+be|"
    r"looks?\s+(?:to\s+me\s+)?(?:like|to\s+be)|(?:should|can|could|may|might|would)\s+be\s+(?:labell?ed|classified|"
    r"named|"
    r"called|identified|described|categori[sz]ed)(?:\s+as)?|captures?|presents?|portrays?|illustrates?|highlights?|"
    r"(?:could|might|may|must|can|should)\s+(?:be|well\s+be)|shows?|showcases?|depicts?|displays?|features?|"
    r"(?:closely\s+|most\s+)*"
    r"(?:resembles?|match(?:es)?)|represents|belongs?\s+to|has\s+features\s+consistent\s+with|contains?|"
    r"points?\s+to|suggests?)"
)
SUBJECT = (
    r"(?:(?:it|this|that)\s+(?:looks|seems|appears)\s+(?:like|that|to\s+me\s+(?:like|that)|as\s+if)\s+(?:this|it|"
    r"that)\s+|"
    r"(?:(?:one|another|a|an|my)\s+)?(?:(?:possible|suitable|good|likely|common|english|best|final|correct|product|"
    r"class|fine-grained)\s+)*"
    r"(?:label|answer|name|guess|prediction|match)\s(?:of\s+(?:this|the)\s+[a-z]+\s)?|(?:this|these|it|they|"
    r"that)(?:\s*(?='s|’s|'re|’re)|\s+)(?:\w+ly\s+)?|(?:the|this|these|that|an?|my|your|"
    r"our)\s[^.:;]{0,80}?\b(?:image|picture|photo|photograph|pictured|shown|depicted|provided|"
    r"foreground|description|question|species|model|breed|variety|label|class|answer|name|guess|identification|"
    r"classification|category|prediction|"
    r"conclusion|candidate|match|subject|object|item|product|here|see|seen)\b[^.:;]{0,40}?\s|"
    r"(?:what|who)\s+(?:you|we|i)(?:['’]re|\s+are|\s+can)?\s*(?:see|seeing|have|looking\s+at)?\s*(?:here\s+|"
    r"in\s+(?:this|the)\s+\w+\s+)?|"
    r"(?:this(?:\s+(?:one|bird|car|flower|dog|plant|item|product))?|these|it|they|that)(?:\s*(?='s|’s|'re|’re)|\s+)(?:\w+ly\s+)?(?:(?:image|photo|picture)\s+)?|(?:this|"
    r"these|the)\s+(?:[\w-]+\s+){1,2}?)"
)
_NAMED = rf"(?P<prefix>(?-i:(?:{HEDGE})*(?:{ARTICLE})?(?:{HEDGE})*(?:{ARTICLE})?))(?P<name>\S.*)"
"""What a statement ends with: hedges and articles, in lower case only, then the name and all that follows."""
STATEMENT = re.compile(
    rf"(?:^(?:(?:so|thus|then|hence|therefore|well|okay|ok|clearly|overall|again)\s+)?|[,–—):]\s*|(?-i:\b(?:that|so|"
    rf"therefore|and|think|believe|guess|say|sure|confident|certain|convinced|chance|possibility|likelihood|"
    rf"suspect)\b),?\s)\s*{SUBJECT}(?P<copula>{COPULA}[:,]?\s+|['’]s\s+|['’]re\s+)"
    rf"{_NAMED}",
    re.IGNORECASE | re.DOTALL,
)
FIRST_PERSON = re.compile(  # "I would classify this image as a Tree Pipit", "I can see a Tree Pipit"
    r"(?:^|[,–—:]\s*|\band\s)\s*(?:(?:i|we|you|one)(?:['’](?:d|m|re|ll|ve)|\s+(?:would|can|could|am|are|have|will|"
    r"might|do))?\s+(?:also\s+|clearly\s+|confidently\s+|best\s+)?"
    r"(?P<verb>classify|label|identify|identified|describe|call|name|categori[sz]e|recogni[sz]e|see(?:ing)?|looking\s+at|"
    r"(?:going|go)\s+with|lean(?:ing)?\s+towards?|got|"
    r"say|guess|go\s+with|think\s+of|choose|pick|answer|"
    r"believe|think|suspect|suggest|assign|provide|give|tag)\b"
    r"(?-i:\s+(?:this|it|that|the|these)(?:\s+(?:(?!as\b|an?\b)\w+\s+){0,2}?(?:image|photo|picture|bird|animal|car|"
    r"flower|plant|dog|cat|product|object|item|one|subject|label|class))?)?"
    r"(?-i:\s+(?:label|name|class))?\s*(?:as|with|to\s+be|is)?[:,]?\s+)"
    rf"{_NAMED}",
    re.IGNORECASE | re.DOTALL,
)
THERE_IS = re.compile(
    r"(?:^|,\s*)(?:there\s*(?:is|are|['’]s)|here\s*(?:is|are|['’]s)|here\s+we\s+have|pictured(?:\s+here)?\s+(?:is|"
    r"are)|shown(?:\s+here)?\s+(?:is|are)|"
    r"(?:it\s+)?can\s+be\s+(?:identified|classified|described|labell?ed|recogni[sz]ed)\s+as|featured\s+(?:is|are)|"
    r"we\s+have)\s+"
    rf"{_NAMED}",
    re.IGNORECASE | re.DOTALL,
)
SUGGESTED = re.compile(  # "this suggests it is a Tree Pipit"
    rf"\b(?:(?:that|which|it|this)\s+{COPULA}|could\s+be|likely|resembles?|consistent\s+with|identified\s+as|"
    rf"classified\s+as|described\s+as|labell?ed(?:\s+as)?|depicting|showing|"
    r"featuring)\s+"
    rf"(?P<prefix>(?-i:(?:{HEDGE})*{ARTICLE}(?:{HEDGE})*))(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
NAMED_FIRST = re.compile(  # "A House Sparrow is shown in the image.", "House Sparrow is the best label."
    r"^(?P<prefix>(?:[Aa]n?|[Tt]he)\s+)?(?P<name>(?!(?:It|This|That|These|They|There|What|I|We|You|The|He|She|My|"
    r"In|On|One|Its|Based|Given|However|Without|To|As|If)\b)\S.{0,118}?)\s+"
    r"(?:is|are|was)\s+(?=(?:the\s+(?:best|most|correct|label|answer|name|class|species|subject|main)|my\s|shown|"
    r"depicted|pictured|visible|seen|perched|sitting|standing|"
    r"parked|displayed|featured|in\s+the\s+(?:image|photo|picture)|in\s+this|a\s+(?:fine|suitable|good)|what))",
    re.DOTALL,
)
