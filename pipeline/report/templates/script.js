"use strict";
// All text below comes from an untrusted catalogue: it enters the page by textContent and attributes only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 48;
  const byId = (id) => document.getElementById(id);
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== ""));
    return node;
  }

  function picture(item, alt) {
    return thumbnail(item === null ? null : data.thumb[item], alt);
  }

  function thumbnail(place, alt) {
    if (place === null || place === undefined) return element("span", { class: "blank" }, "no picture");
    return element("img", { src: "data:image/webp;base64," + data.thumbs[place], alt, decoding: "async" });
  }

  const alternative = (item) => "Picture: " + (data.caption[item] || data.title[item]);

  for (const holder of document.querySelectorAll(".picture")) {
    const item = holder.dataset.item === "" ? null : Number(holder.dataset.item);
    holder.append(picture(item, item === null ? "" : alternative(item)));
  }
  for (const holder of document.querySelectorAll(".example")) {
    holder.append(thumbnail(Number(holder.dataset.thumb), "An example's picture"));
  }

  // ---- gallery -------------------------------------------------------------------------------------------------
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const index = data.id.map((id, item) =>
    plain([id, data.title[item], data.brand[item], data.path[item], data.caption[item]].join(" ")));
  let matches = data.id.map((_, item) => item);
  let drawn = 0;
  let current = null;

  function search() {
    const words = plain(byId("search").value).split(/\s+/).filter(Boolean);
    const category = byId("category").value;
    matches = index.flatMap((text, item) =>
      words.every((word) => text.includes(word)) && (category === "" || data.category[item] === Number(category))
        ? [item] : []);
    byId("matches").textContent = matches.length === data.id.length
      ? `${count(matches.length)} item${matches.length === 1 ? "" : "s"}`
      : matches.length ? `${count(matches.length)} of ${count(data.id.length)} items` : "No item matches. Try fewer words.";
    byId("grid").replaceChildren();
    drawn = 0;
    draw();
  }

  function draw() {
    const next = matches.slice(drawn, drawn + PAGE);
    byId("grid").append(...next.map((item) => {
      const button = element("button", { type: "button", title: data.title[item], "data-item": item,
        "aria-pressed": String(item === current) }, picture(item, alternative(item)),
        element("bdi", { class: "name" }, data.title[item]));
      button.addEventListener("click", () => open(item));
      return element("li", {}, button);
    }));
    drawn += next.length;
    byId("more").hidden = drawn >= matches.length;
    return next.length;
  }

  const count = (number) => number.toLocaleString("en");

  function facts(item) {
    const price = data.price[item];
    const rows = [
      ["Id", data.id[item]], ["Brand", data.brand[item]], ["Category", data.path[item]],
      ["Price", price === null ? "" : price.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })],
      ["Caption", data.caption[item]],
      ["Chosen", data.chosen[item] === 1 ? "once" : `${count(data.chosen[item])} times`],
    ];
    return element("dl", { class: "facts" }, ...rows.filter(([, value]) => value).flatMap(([name, value]) =>
      [element("dt", {}, name), element("dd", {}, element("bdi", {}, value))]));
  }

  function neighbours(space, item) {
    const near = space.near[item];
    const cards = near.map((other, place) => {
      const cosine = (space.cosine[item][place] / 100).toFixed(2);
      const card = element("button", { type: "button", class: "card", "data-item": other, title: data.title[other] },
        picture(other, alternative(other)), element("bdi", { class: "name" }, data.title[other]),
        element("span", { class: "cosine" }, element("span", { class: "quiet-label" }, "cosine "), cosine));
      card.addEventListener("click", () => open(other));
      return element("li", {}, card);
    });
    return element("section", { class: "space" },
      element("h4", {}, space.title + " ", space.note ? element("small", {}, space.note) : ""),
      cards.length ? element("ol", { class: "cards" }, ...cards)
        : element("p", { class: "absent" }, "This item lacks this modality, or has no neighbour by it."));
  }

  function show(item) {
    current = item;
    for (const button of byId("grid").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.item) === item));
    }
    byId("detail").replaceChildren(
      element("div", { class: "subject" }, element("div", { class: "portrait" }, picture(item, alternative(item))),
        element("div", {}, element("h3", {}, element("bdi", {}, data.title[item])), facts(item),
          data.description[item] ? element("p", { class: "description" }, element("bdi", {}, data.description[item])) : "")),
      ...data.spaces.map((space) => neighbours(space, item)),
      data.spaces.length ? "" : element("p", { class: "absent" }, "This run has no features, similarity or embeddings."));
  }

  function open(item, { move = true, remember = true } = {}) {
    show(item);
    if (remember) history.pushState(null, "", "#item=" + encodeURIComponent(data.id[item]));
    if (!move) return;
    byId("detail").focus({ preventScroll: true });
    const box = byId("detail").getBoundingClientRect();
    if (box.top < 60 || box.top > innerHeight * 0.6) {
      byId("detail").scrollIntoView({ block: "start", behavior: reduced ? "auto" : "smooth" });
    }
  }

  function fromAddress() {
    if (!location.hash.startsWith("#item=")) return false;
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(6)); } catch { return false; }
    const item = data.id.indexOf(id);
    if (item >= 0) open(item, { remember: false });
    return item >= 0;
  }

  function same(event, on) {
    const card = event.target.closest?.("[data-item]");
    for (const other of byId("detail").querySelectorAll(".same")) other.classList.remove("same");
    if (on && card) {
      for (const other of byId("detail").querySelectorAll(`.card[data-item="${card.dataset.item}"]`)) other.classList.add("same");
    }
  }

  if (byId("grid")) {
    byId("search").addEventListener("input", search);
    byId("category").addEventListener("change", search);
    byId("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (matches.length) open(matches[0]);
    });
    byId("more").addEventListener("click", () => {
      const before = drawn;
      draw();
      byId("grid").children[before]?.querySelector("button").focus();
    });
    for (const [name, on] of [["pointerover", true], ["focusin", true], ["pointerout", false], ["focusout", false]]) {
      byId("detail").addEventListener(name, (event) => same(event, on));
    }
    search();
    addEventListener("popstate", fromAddress);
    if (!fromAddress()) open(0, { move: false, remember: false });
  }

  for (const link of document.querySelectorAll("[data-open]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      open(Number(link.dataset.open));
    });
  }

  // ---- map -----------------------------------------------------------------------------------------------------
  if (byId("plane")) {
    const plane = byId("plane"), tip = byId("tip"), atlas = byId("atlas");
    let points = [], chosen = -1, lit = null;

    function plot() {
      const coordinates = data.spaces[Number(byId("space").value)].map;
      points = coordinates.flatMap((point, item) => (point ? [{ item, x: point[0], y: 1000 - point[1] }] : []));
      plane.replaceChildren(...points.map(({ item, x, y }) => {
        const dot = document.createElementNS("http://www.w3.org/2000/svg", "path");
        dot.setAttribute("d", `M${x} ${y}h0`); // a round line cap stays round when the plane is stretched
        dot.setAttribute("class", "s" + (data.category[item] + 1));
        return dot;
      }));
      byId("map-status").textContent = `${count(points.length)} of ${count(data.id.length)} items are on this map.`;
      highlight();
      hide();
    }

    function highlight() {
      points.forEach(({ item }, place) => {
        plane.children[place].classList.toggle("dim", lit !== null && data.category[item] !== lit);
      });
    }

    function position({ x, y }) {
      const box = plane.getBoundingClientRect();
      return [((x + 20) / 1040) * box.width, ((y + 20) / 1040) * box.height];
    }

    function point(place, announce = false) {
      if (place === chosen) return;
      plane.children[chosen]?.classList.remove("chosen");
      chosen = place;
      plane.children[place].classList.add("chosen");
      const { item } = points[place];
      tip.replaceChildren(picture(item, ""), element("div", {}, element("bdi", { class: "name" }, data.title[item]),
        element("small", {}, data.categories[data.category[item]])));
      tip.hidden = false;
      const [left, top] = position(points[place]);
      const width = tip.offsetWidth, height = tip.offsetHeight;
      tip.style.left = Math.max(4, Math.min(left - width / 2, atlas.clientWidth - width - 4)) + "px";
      tip.style.top = (top - height - 14 > 0 ? top - height - 14 : top + 16) + "px";
      if (announce) byId("map-status").textContent = `${data.title[item]}, ${data.categories[data.category[item]]}`;
    }

    function hide() {
      plane.children[chosen]?.classList.remove("chosen");
      chosen = -1;
      tip.hidden = true;
    }

    function nearest(px, py, reach) {
      let best = -1, least = reach * reach;
      points.forEach((candidate, place) => {
        if (lit !== null && data.category[candidate.item] !== lit) return;
        const [x, y] = position(candidate);
        const distance = (x - px) ** 2 + (y - py) ** 2;
        if (distance < least) [best, least] = [place, distance];
      });
      return best;
    }

    function under(event, reach) {
      const box = plane.getBoundingClientRect();
      return nearest(event.clientX - box.left, event.clientY - box.top, reach);
    }

    function step(dx, dy) {
      if (chosen < 0) return point(nearest(plane.clientWidth / 2, plane.clientHeight / 2, 1e6), true);
      const [x0, y0] = position(points[chosen]);
      let best = -1, least = Infinity;
      points.forEach((candidate, place) => {
        const [x, y] = position(candidate);
        const along = (x - x0) * dx + (y - y0) * dy, across = Math.abs((x - x0) * dy - (y - y0) * dx);
        const cost = along + 2.5 * across;
        if (along > 0.5 && across <= along * 1.2 && cost < least) [best, least] = [place, cost];
      });
      if (best >= 0) point(best, true);
    }

    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    plane.addEventListener("keydown", (event) => {
      if (arrows[event.key]) { event.preventDefault(); step(...arrows[event.key]); }
      if (event.key === "Enter" && chosen >= 0) open(points[chosen].item);
      if (event.key === "Escape") hide();
    });
    plane.addEventListener("pointermove", (event) => {
      const place = under(event, event.pointerType === "mouse" ? 18 : 30);
      if (place >= 0) point(place); else if (event.pointerType === "mouse") hide();
    });
    plane.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
    plane.addEventListener("click", (event) => {
      const place = under(event, 30);
      if (place < 0) return;
      if (event.pointerType === "mouse" || place === chosen && !tip.hidden && tip.dataset.ready === String(place)) open(points[place].item);
      else { point(place); tip.dataset.ready = String(place); } // a first tap shows, a second opens
    });
    byId("space").addEventListener("change", plot);
    byId("legend").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const category = Number(button.dataset.category);
      lit = lit === category ? null : category;
      for (const other of byId("legend").children) {
        other.setAttribute("aria-pressed", String(Number(other.dataset.category) === lit));
      }
      highlight();
    });
    plot();
  }

  // ---- which section is being read --------------------------------------------------------------------------------
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const link = links.get(entry.target.id);
      if (!entry.isIntersecting || !link) continue;
      for (const other of links.values()) other.removeAttribute("aria-current");
      link.setAttribute("aria-current", "true");
      const bar = link.closest("ul");
      bar.scrollTo({ left: link.offsetLeft - bar.clientWidth / 2, behavior: reduced ? "auto" : "smooth" });
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const section of document.querySelectorAll("main > section")) watch.observe(section);
})();
