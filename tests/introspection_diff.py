"""Two introspections compared the plain way: every root walked by itself, nothing shared.

It is slow, and has nothing in common with nbexport.review but the words for what it finds.
"""

from __future__ import annotations


def visible(old, new):
    """What differs: a set of root, direction, kind and name."""
    return _Plain(old, new).run()


class _Plain:
    def __init__(self, old, new):
        self.old = {entry["name"]: entry for entry in old}
        self.new = {entry["name"]: entry for entry in new}
        self.found = set()

    def run(self):
        calls = ("command", "event")
        was = {n: e for n, e in self.old.items() if e["meta-type"] in calls}
        now = {n: e for n, e in self.new.items() if e["meta-type"] in calls}
        for name in was.keys() | now.keys():
            before, after = was.get(name), now.get(name)
            if before is not None and after is not None:
                if before["meta-type"] == after["meta-type"]:
                    self.call(name, before, after)
                    continue
                self.note(name, "", f"{before['meta-type']}-removed", name)
            elif before is not None:
                self.note(name, "", f"{before['meta-type']}-removed", name)
            if after is not None:
                self.note(name, "", f"{after['meta-type']}-added", name)
        return self.found

    def note(self, *what):
        self.found.add(what)

    def call(self, name, before, after):
        self.features(name, "", before, after)
        event = before["meta-type"] == "event"
        self.seen = set()
        self.pair(name, "receives" if event else "sends", before["arg-type"], after["arg-type"])
        if not event:
            was, now = before.get("allow-oob", False), after.get("allow-oob", False)
            if was != now:
                self.note(name, "", "flag-added" if now else "flag-removed", "out-of-band")
            self.seen = set()
            self.slot(name, "receives", "returns", before["ret-type"], after["ret-type"])

    def features(self, root, direction, before, after):
        was, now = set(before.get("features", ())), set(after.get("features", ()))
        for feature in was - now:
            self.note(root, direction, "feature-removed", feature)
        for feature in now - was:
            self.note(root, direction, "feature-added", feature)

    def slot(self, root, direction, name, old, new):
        """Compare the types of a member."""
        gained, lost = self.values(root, direction, old, new)
        if gained or lost:
            verdict = "changed" if gained and lost else "widened" if gained else "narrowed"
            self.note(root, direction, f"type-{verdict}", name)

    def kinds(self, entries, name):
        entry = entries[name]
        meta = entry["meta-type"]
        if meta == "alternate":
            found = {}
            for member in entry["members"]:
                found |= self.kinds(entries, member["type"])
            return found
        if meta == "builtin":
            return {{"int": "number"}.get(entry["json-type"], entry["json-type"]): name}
        return {{"enum": "string"}.get(meta, meta): name}

    def values(self, root, direction, old, new):
        was, now = self.kinds(self.old, old), self.kinds(self.new, new)
        metas = {self.old[old]["meta-type"], self.new[new]["meta-type"]}
        if metas == {"alternate"}:
            self.features(root, direction, self.old[old], self.new[new])
        if "value" in was or "value" in now:
            return "value" not in was, "value" not in now
        gained, lost = not now.keys() <= was.keys(), not was.keys() <= now.keys()
        for kind in was.keys() & now.keys():
            before, after = self.old[was[kind]], self.new[now[kind]]
            if kind == "array":
                more, less = self.values(
                    root, direction, before["element-type"], after["element-type"]
                )
            elif kind == "number":
                more = before["json-type"] == "int" and after["json-type"] == "number"
                less = before["json-type"] == "number" and after["json-type"] == "int"
            elif kind == "string":
                more = before["meta-type"] == "enum" and after["meta-type"] != "enum"
                less = before["meta-type"] != "enum" and after["meta-type"] == "enum"
                if before["meta-type"] == after["meta-type"] == "enum":
                    self.pair(root, direction, was[kind], now[kind])
            else:
                more = less = False
                if kind == "object":
                    self.pair(root, direction, was[kind], now[kind])
            gained, lost = gained or more, lost or less
        return gained, lost

    def pair(self, root, direction, old, new):
        """Compare two objects or two enumerations."""
        if (old, new) in self.seen:
            return
        self.seen.add((old, new))
        before, after = self.old[old], self.new[new]
        self.features(root, direction, before, after)
        if before["meta-type"] == "enum":
            was = {value["name"]: value for value in before["members"]}
            now = {value["name"]: value for value in after["members"]}
            for name in was.keys() - now.keys():
                self.note(root, direction, "value-removed", name)
            for name in now.keys() - was.keys():
                self.note(root, direction, "value-added", name)
            for name in was.keys() & now.keys():
                self.features(root, direction, was[name], now[name])
            return
        for tags, was in self.cases(self.old, old):
            for others, now in self.cases(self.new, new):
                if all(others.get(tag, value) == value for tag, value in tags.items()):
                    self.members(root, direction, was, now)

    def cases(self, entries, name):
        """The members of an object for each choice of its tags."""
        entry = entries[name]
        common = {member["name"]: member for member in entry["members"]}
        if "tag" not in entry:
            return [({}, common)]
        found = []
        tag = common[entry["tag"]]
        values = [value["name"] for value in entries[tag["type"]]["members"]]
        branches = {variant["case"]: variant["type"] for variant in entry["variants"]}
        for value in values:
            inner = self.cases(entries, branches[value]) if value in branches else [({}, {})]
            for tags, members in inner:
                found.append(({entry["tag"]: value, **tags}, common | members))
        return found or [({}, common)]

    def members(self, root, direction, was, now):
        for name in was.keys() - now.keys():
            self.note(root, direction, "member-removed", name)
        for name in now.keys() - was.keys():
            self.note(root, direction, "member-added", name)
        for name in was.keys() & now.keys():
            before, after = was[name], now[name]
            if ("default" in before) != ("default" in after):
                kind = "became-optional" if "default" in after else "became-required"
                self.note(root, direction, kind, name)
            self.features(root, direction, before, after)
            self.slot(root, direction, name, before["type"], after["type"])
