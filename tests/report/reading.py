"""Reading pages as a browser would: whether they are whole, what they say, what they would fetch."""

from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "hr", "input"}
ADDRESSES = {"src", "href", "xlink:href", "action", "srcset", "poster", "data", "background"}


class Page(HTMLParser):
    """The tags that are open at the end or closed wrongly, all elements with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    @property
    def addresses(self) -> list[str]:
        return [value or "" for _, attributes in self.elements for key, value in attributes.items() if key in ADDRESSES]


def text_of(page: str) -> str:
    return Page(page).text
