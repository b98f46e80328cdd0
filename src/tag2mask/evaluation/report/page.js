"use strict";

(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);

  /** An element with attributes and children; text becomes text, never markup. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function styled(element, properties) {
    for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, value);
    return element;
  }

  const count = (number) => number.toLocaleString("en-GB");
  const photographs = (number) => (number === 1 ? "1 photograph" : `${count(number)} photographs`);
  const percent = (share) => (share === null ? "-" : (100 * share).toFixed(1));
  const series = (position) => `var(--series-${(position % 6) + 1})`;
  const swatch = (colour) => styled(make("span", { class: "swatch" }), { background: colour });
  const className = (id) => (report.classes[id] ? report.classes[id][0] : `class ${id}`);
  const classColour = (id) => (report.classes[id] ? report.classes[id][1] : "transparent");
  const compareText = new Intl.Collator("en", { numeric: true }).compare;

  /** Classes with their colours, each with a note behind it if there are notes. */
  function chips(ids, notes = []) {
    const item = (id, index) =>
      make("li", { class: "chip" }, swatch(classColour(id)), className(id), ...(notes[index] ? [make("b", {}, notes[index])] : []));
    return make("ul", { class: "chips" }, ...ids.map(item));
  }

  /** Buttons of which one is pressed. Returns a function that presses one without choosing it. */
  function choice(group, options, choose) {
    const buttons = options.map(([value, text]) => {
      const button = make("button", { type: "button" }, text);
      button.addEventListener("click", () => {
        press(value);
        choose(value);
      });
      return button;
    });
    const press = (value) =>
      options.forEach(([other], index) => buttons[index].setAttribute("aria-pressed", String(other === value)));
    group.replaceChildren(...buttons);
    return press;
  }

  // ---------------------------------------------------------------- cards

  const cards = Array.from(document.querySelectorAll("script.card-facts"), (facts) => ({
    ...JSON.parse(facts.textContent),
    data: facts.nextElementSibling,
  }));

  /** Data URLs of a card's layers. They are read when they are needed and not kept: there may be gigabytes of them. */
  const sources = (card) => JSON.parse(card.data.textContent);

  /** Names of all layers in an order that agrees with every photograph's own. */
  function layerNames() {
    const names = [];
    const seen = new Set();
    for (const { layers } of cards) {
      const key = JSON.stringify(layers);
      if (seen.has(key)) continue;
      seen.add(key);
      layers.forEach(([name], index) => {
        if (names.includes(name)) return;
        const later = layers.slice(index + 1).find(([next]) => names.includes(next));
        names.splice(later ? names.indexOf(later[0]) : names.length, 0, name);
      });
    }
    return names;
  }

  /** Names of layers that most photographs of a list go without, such as the CAM of a single class. */
  function rareLayers() {
    const lists = [...new Set(cards.map((card) => card.split))].map((split) => cards.filter((card) => card.split === split));
    const common = (name) =>
      lists.some((list) => list.filter((card) => layerIndex(card, name) >= 0).length >= list.length / 2);
    return new Set(names.filter((name) => !common(name)));
  }

  /** The pictures that show one layer: a cover needs the photograph below it. */
  function layerImages(card, urls, index) {
    const [name, kind] = card.layers[index];
    const image = (position, alt) =>
      make("img", { src: urls[position], alt, class: card.layers[position][1], decoding: "async", draggable: "false" });
    const top = image(index, kind === "photo" ? card.id : `${name} of ${card.id}`);
    const below = card.layers.findIndex(([, other]) => other === "photo");
    return kind === "cover" && below >= 0 ? [image(below, ""), top] : [top];
  }

  const ratio = ({ size: [height, width] }) => width / height;
  const layerIndex = (card, name) => card.layers.findIndex(([other]) => other === name);
  const score = (card, ranking) => {
    const found = card.scores.find(([name]) => name === ranking);
    return found ? found[2] : null;
  };

  // ---------------------------------------------------------------- gallery

  const SIDE_BY_SIDE = "";
  const MAX_COLUMNS = 6;
  const grid = byId("cards");
  const cardOf = new Map();
  const names = layerNames();
  const rare = rareLayers();
  const view = { layer: SIDE_BY_SIDE, shown: [] };

  for (const card of cards) {
    card.element = make("article", { class: "card" });
    cardOf.set(card.element, card);
  }

  function frame(card, index, missing) {
    const name = card.layers[index][0];
    const stack = styled(make("span", { class: "stack" }), { "--ratio": ratio(card) });
    const button = make(
      "button",
      { type: "button", class: missing ? "frame missing" : "frame", "aria-label": `Enlarge ${card.id}, ${name}` },
      make("span", { class: "box" }, stack),
      make("span", { class: "caption" }, missing ? `${name}; no ${missing}` : name),
    );
    button.addEventListener("click", () => viewer.open(card, missing ? undefined : index));
    return { button, stack, index };
  }

  function build(card) {
    const single = view.layer !== SIDE_BY_SIDE;
    const wanted = single ? layerIndex(card, view.layer) : -1;
    const indices = single ? [Math.max(0, wanted)] : card.layers.map((_, index) => index);
    // Rare layers behind the others: so the columns of all photographs are the same.
    const late = (index) => Number(rare.has(card.layers[index][0]));
    if (!single) indices.sort((a, b) => late(a) - late(b));
    card.frames = card.layers.length
      ? indices.map((index) => frame(card, index, single && wanted < 0 ? view.layer : undefined))
      : [];
    const { ranking } = chosenOrder();
    const ranked = ranking ?? report.rankings.map(([name]) => name).find((name) => score(card, name) !== null);
    const head = make(
      "div",
      { class: "card-head" },
      make("h3", { title: card.id }, card.id),
      make("span", { class: "split" }, card.split),
    );
    const tags = chips(card.tags);
    if (!single) head.append(tags);
    if (card.scores.length) {
      head.append(
        make(
          "span",
          { class: "scores", title: "mean IoU within this photograph, in %" },
          single ? "" : "mIoU ",
          ...card.scores.map(([name, text, value], index) =>
            make(
              "span",
              { class: name === ranked ? "ranked" : "" },
              single || !index ? "" : " · ",
              `${text} `,
              make("b", {}, percent(value)),
            ),
          ),
        ),
      );
    }
    card.element.replaceChildren(
      head,
      ...(single ? [tags] : []),
      make("div", { class: "frames" }, ...card.frames.map(({ button }) => button)),
    );
  }

  function attach(card) {
    if (!card.frames) build(card);
    if (card.attached) return;
    card.attached = true;
    const urls = sources(card);
    for (const { stack, index } of card.frames) stack.replaceChildren(...layerImages(card, urls, index));
  }

  /** Lets go of the pictures, which are what is heavy; names and frames keep their place. */
  function release(card) {
    if (!card.attached) return;
    card.attached = false;
    for (const { stack } of card.frames) stack.replaceChildren();
  }

  const near = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        (isIntersecting ? attach : release)(cardOf.get(target));
      }
    },
    { rootMargin: "1200px 0px" },
  );

  /** Draws all cards anew, the one that was being looked at where it was. */
  function rebuild() {
    const looked = view.shown.find((card) => card.element.getBoundingClientRect().bottom > 200);
    const top = looked && looked.element.getBoundingClientRect().top;
    near.disconnect();
    const single = view.layer !== SIDE_BY_SIDE;
    const commonLayers = (card) => card.layers.filter(([name]) => !rare.has(name)).length;
    const columns = Math.min(MAX_COLUMNS, Math.max(1, ...cards.map(commonLayers)));
    grid.classList.toggle("single", single);
    styled(grid, { "--columns": columns, "--card-width": single ? "17rem" : `${columns * 13}rem` });
    grid.style.removeProperty("--card-height");
    for (const card of cards) {
      card.element.replaceChildren();
      card.frames = undefined;
      card.attached = false;
    }
    // The first card tells how tall those that are not drawn yet will be.
    if (view.shown.length) {
      build(view.shown[0]);
      styled(grid, { "--card-height": `${view.shown[0].element.offsetHeight}px` });
    }
    if (looked && top < 0) window.scrollBy(0, looked.element.getBoundingClientRect().top - top);
    for (const card of view.shown) near.observe(card.element);
  }

  /** What the cards are ordered by: a score, the worst or the best first, or no score but their names. */
  function chosenOrder() {
    const [kind, index] = byId("order").value.split(" ");
    return index === undefined ? {} : { ranking: report.rankings[index][0], sign: kind === "worst" ? 1 : -1 };
  }

  function order() {
    const { ranking, sign } = chosenOrder();
    const value = (card) => score(card, ranking);
    const named = (a, b) => compareText(a.id, b.id);
    if (ranking === undefined) return named;
    // Photographs without this score come last either way.
    return (a, b) =>
      (value(a) === null) - (value(b) === null) || sign * (value(a) - value(b)) || named(a, b);
  }

  function update() {
    const text = byId("text").value.trim().toLowerCase();
    const [wanted, where, split] = [byId("class").value, byId("where").value, byId("split").value];
    const previous = view.shown;
    view.shown = cards
      .filter(
        (card) =>
          (!text || card.id.toLowerCase().includes(text)) &&
          (!wanted || card[where].includes(Number(wanted))) &&
          (!split || card.split === split.slice(1)),
      )
      .sort(order());
    for (const card of previous) near.unobserve(card.element);
    if (view.shown.length) {
      grid.replaceChildren(...view.shown.map((card) => card.element));
      for (const card of view.shown) near.observe(card.element);
    } else {
      grid.replaceChildren(make("p", { class: "empty" }, "No photograph fits. “Show all” takes the filters away."));
    }
    const shown = view.shown.length;
    // A photograph has the scores of its own list alone: one must see where the order ends.
    const { ranking } = chosenOrder();
    const unscored = ranking === undefined ? 0 : view.shown.filter((card) => score(card, ranking) === null).length;
    const rest = !unscored ? "" : unscored === shown ? "; none has this score" : `; the last ${count(unscored)} without this score`;
    byId("count").textContent =
      (shown === cards.length ? photographs(shown) : `${count(shown)} of ${photographs(cards.length)}`) + ` shown${rest}`;
    byId("where-field").hidden = !wanted || !cards.some((card) => card.present.length);
    byId("reset").disabled = !(text || wanted || split);
  }

  function resetFilters() {
    byId("text").value = byId("class").value = byId("split").value = "";
    byId("where").value = "tags";
  }

  /** Shows the photographs of one class: what a click on its name does, wherever on the page. */
  function showClass(name) {
    const id = report.classes.findIndex(([other]) => other === name);
    resetFilters();
    if (!cards.some((card) => card.tags.includes(id))) byId("where").value = "present";
    byId("class").value = String(id);
    update();
    byId("gallery").scrollIntoView();
  }

  const inGallery = (name) => {
    const id = report.classes.findIndex(([other]) => other === name);
    return id > 0 && cards.some((card) => card.tags.includes(id) || card.present.includes(id));
  };

  function setOpacity(value) {
    byId("opacity").value = byId("viewer-opacity").value = value;
    styled(document.documentElement, { "--opacity": value / 100 });
  }

  function options(select, entries) {
    select.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
  }

  function startGallery() {
    const total = Math.max(report.total, cards.length);
    if (!cards.length) {
      grid.replaceWith(make("p", { class: "empty" }, "This page was made without a gallery."));
      return;
    }
    if (cards.length < total) {
      byId("gallery-part").textContent = `${count(cards.length)} of ${photographs(total)}, evenly spread.`;
    }

    const listed = [...rare];
    const more = make("select", { "aria-label": "More layers" });
    options(more, [["", "more layers…"], ...listed.map((name, index) => [String(index + 1), name])]);
    const show = (layer) => {
      view.layer = layer;
      if (!rare.has(layer)) more.value = "";
      rebuild();
    };
    const press = choice(
      byId("views"),
      [[SIDE_BY_SIDE, "Side by side"], ...names.filter((name) => !rare.has(name)).map((name) => [name, name])],
      show,
    );
    press(view.layer);
    if (rare.size) byId("views").append(more);
    more.addEventListener("change", () => {
      const layer = more.value ? listed[more.value - 1] : SIDE_BY_SIDE;
      press(layer);
      show(layer);
    });

    options(byId("order"), [
      ["name", "by name"],
      ...report.rankings.flatMap(([, text], index) => [
        [`worst ${index}`, `worst first: ${text}`],
        [`best ${index}`, `best first: ${text}`],
      ]),
    ]);
    // Frames of the shape most photographs have, within reason.
    const ratios = cards.map(ratio).sort((a, b) => a - b);
    styled(grid, { "--box": Math.min(1.6, Math.max(0.8, ratios[ratios.length >> 1])) });
    const tagged = report.classes
      .map(([name], id) => [id, name, cards.filter((card) => card.tags.includes(id)).length])
      .filter(([id, , times]) => id > 0 && (times || cards.some((card) => card.present.includes(id))));
    options(byId("class"), [["", "any"], ...tagged.map(([id, name, times]) => [id, `${name} (${count(times)})`])]);
    const splits = [...new Set(cards.map((card) => card.split))];
    options(byId("split"), [["", "any"], ...splits.map((split) => [`=${split}`, split])]);
    byId("split-field").hidden = splits.length < 2;
    byId("legend-classes").replaceChildren(
      ...report.classes.map(([name, colour]) => make("li", { class: "chip" }, swatch(colour), name)),
    );
    byId("legend").hidden = false;
    byId("opacity-field").hidden = !cards.some((card) => card.layers.some(([, kind]) => kind === "cover"));
    byId("filters").open = window.innerWidth > 800;
    byId("gallery-tools").hidden = false;

    for (const id of ["class", "where", "split"]) byId(id).addEventListener("change", update);
    byId("order").addEventListener("change", () => {
      update();
      rebuild();
      byId("gallery").scrollIntoView();
    });
    byId("text").addEventListener("input", update);
    byId("reset").addEventListener("click", () => {
      resetFilters();
      update();
    });
    for (const id of ["opacity", "viewer-opacity"]) {
      byId(id).addEventListener("input", (event) => setOpacity(event.target.value));
    }
    window.addEventListener("beforeprint", () => view.shown.slice(0, 12).forEach(attach));
    update();
    rebuild();
  }

  // ---------------------------------------------------------------- viewer

  const idOfColour = new Map(report.classes.map(([, colour], id) => [Number.parseInt(colour.slice(1), 16), id]));

  /**
   * Classes in a mask with their shares of the photograph, the largest first; none for a map that is no mask, whose
   * opaque colours are not those of classes.
   */
  async function maskShares(url) {
    const SIDE = 256;
    const image = make("img", { src: url });
    await image.decode();
    const scale = Math.min(1, SIDE / Math.max(image.naturalWidth, image.naturalHeight));
    const width = Math.max(1, Math.round(image.naturalWidth * scale));
    const height = Math.max(1, Math.round(image.naturalHeight * scale));
    const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
    context.imageSmoothingEnabled = false; // mixed colours would be other classes'
    context.drawImage(image, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const found = new Map();
    let opaque = 0;
    let known = 0;
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] !== 255) continue;
      opaque += 1;
      const id = idOfColour.get((data[at] << 16) | (data[at + 1] << 8) | data[at + 2]);
      if (id === undefined) continue;
      known += 1;
      found.set(id, (found.get(id) ?? 0) + 1);
    }
    if (known < opaque / 2) return [];
    return [...found].map(([id, pixels]) => [id, pixels / (width * height)]).sort((a, b) => b[1] - a[1]);
  }

  const viewer = (() => {
    const STEP = 2;
    const dialog = byId("viewer");
    const compare = byId("compare");
    const divider = byId("divider");
    const chosen = { left: undefined, right: undefined };
    let card;
    let position = 50;
    let shown = {};

    function place(percentage) {
      position = Math.min(100, Math.max(0, percentage));
      styled(compare, { "--divider": `${position}%` });
      divider.setAttribute("aria-valuenow", String(Math.round(position)));
      divider.setAttribute("aria-valuetext", `${Math.round(position)} % shows ${shown.left}, the rest ${shown.right}`);
    }

    /** The two layers one compares first: what the run came to with the truth, or the photograph with what was made. */
    function defaults() {
      const all = card.layers.map(([name]) => name);
      const last = all.at(-1);
      const made = all.includes("prediction") ? "prediction" : all.at(-2);
      return last === "truth" && all.length > 2 ? [made, last] : [all[0], last];
    }

    function show() {
      const urls = sources(card);
      const standard = defaults();
      ["left", "right"].forEach((side, index) => {
        const name = layerIndex(card, chosen[side]) >= 0 ? chosen[side] : standard[index];
        shown[side] = name;
        compare.querySelector(`.side.${side}`).replaceChildren(...layerImages(card, urls, layerIndex(card, name)));
        byId(`caption-${side}`).textContent = name;
        for (const button of byId("viewer-layers").querySelectorAll(`button.${side}`)) {
          button.setAttribute("aria-pressed", String(button.value === name));
        }
      });
      place(position);
      showShares(urls);
    }

    async function showShares(urls) {
      const now = (shown = { ...shown });
      const covers = [...new Set([shown.left, shown.right])].filter((name) => card.layers[layerIndex(card, name)][1] === "cover");
      const parts = await Promise.all(
        covers.map(async (name) => {
          const shares = await maskShares(urls[layerIndex(card, name)]);
          const notes = shares.map(([, share]) => (share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`));
          return shares.length ? [make("h3", {}, `In “${name}”`), chips(shares.map(([id]) => id), notes)] : [];
        }),
      );
      // Another layer may have been chosen meanwhile.
      if (now === shown) byId("viewer-shares").replaceChildren(...parts.flat());
    }

    function choose(side, name) {
      // A second press takes the layer off again.
      const off = shown[side] === name;
      chosen[side] = off ? card.layers[0][0] : name;
      show();
    }

    function layerRow([name], index) {
      const button = (side) => {
        const element = make("button", { type: "button", class: side, value: name, "aria-label": `${name} on the ${side}` }, side);
        element.addEventListener("click", () => choose(side, name));
        return make("td", {}, element);
      };
      const key = index < 9 ? [make("kbd", {}, String(index + 1)), " "] : [];
      return make("tr", {}, make("th", { scope: "row" }, ...key, name), button("left"), button("right"));
    }

    function facts() {
      const [height, width] = card.size;
      const parts = [make("h3", {}, "Tags"), card.tags.length ? chips(card.tags) : "none"];
      if (card.present.length) parts.push(make("h3", {}, "In the truth"), chips(card.present));
      if (card.scores.length) {
        parts.push(
          make("h3", {}, "Mean IoU within this photograph, %"),
          make(
            "table",
            { class: "figures" },
            ...card.scores.map(([, text, value]) =>
              make("tr", {}, make("th", { scope: "row" }, text), make("td", {}, percent(value))),
            ),
          ),
        );
      }
      parts.push(make("h3", {}, "Photograph"), `${width} × ${height} pixels, list “${card.split}”`);
      return parts;
    }

    /** The photographs one steps through: those the gallery shows. */
    const shownCards = () => view.shown.filter(({ layers }) => layers.length);

    function load(next) {
      card = next;
      const index = shownCards().indexOf(card);
      byId("viewer-title").textContent = card.id;
      byId("viewer-position").textContent = `${count(index + 1)} of ${count(shownCards().length)}`;
      byId("previous").disabled = index <= 0;
      byId("next").disabled = index + 1 >= shownCards().length;
      styled(compare, { "--ratio": ratio(card) });
      byId("viewer-layers").replaceChildren(...card.layers.map(layerRow));
      byId("viewer-classes").replaceChildren(...facts());
      show();
    }

    function step(by) {
      const next = shownCards()[shownCards().indexOf(card) + by];
      if (next) load(next);
    }

    function open(opened, index) {
      card = opened;
      [chosen.left, chosen.right] = defaults();
      if (index > 0) [chosen.left, chosen.right] = [card.layers[0][0], card.layers[index][0]];
      position = 50;
      load(card);
      dialog.showModal();
    }

    function drag(event) {
      const { left, width } = compare.getBoundingClientRect();
      place((100 * (event.clientX - left)) / width);
    }

    compare.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the arrow keys stay with the photographs
      compare.setPointerCapture(event.pointerId);
      drag(event);
    });
    compare.addEventListener("pointermove", (event) => {
      if (compare.hasPointerCapture(event.pointerId)) drag(event);
    });
    divider.addEventListener("keydown", (event) => {
      const target = {
        ArrowLeft: position - STEP,
        ArrowRight: position + STEP,
        ArrowDown: position - STEP,
        ArrowUp: position + STEP,
        Home: 0,
        End: 100,
      }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      place(target);
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
      const digit = /^Digit([1-9])$/.exec(event.code);
      if (event.key === "ArrowLeft") step(-1);
      else if (event.key === "ArrowRight") step(1);
      else if (digit && card.layers[digit[1] - 1]) choose(event.shiftKey ? "left" : "right", card.layers[digit[1] - 1][0]);
      else return;
      event.preventDefault();
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("close", () => {
      // One goes on where one has looked last.
      card.element.scrollIntoView({ block: "nearest" });
      attach(card);
      card.frames[0].button.focus({ preventScroll: true });
    });
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    byId("close").addEventListener("click", () => dialog.close());
    return { open };
  })();

  // ---------------------------------------------------------------- metrics

  const MARKS = [0, 25, 50, 75, 100];

  /** One chart for all results with the same kind of figure, as bars beside each other. */
  function chart(measure, results) {
    const shown = new Set(results);
    const listed = [...new Set(results.flatMap((result) => result.values.map(([name]) => name)))];
    const valueOf = new Map(results.map((result) => [result, new Map(result.values)]));
    const value = (result, name) => valueOf.get(result).get(name) ?? null;
    const sorted = { by: undefined, up: false };
    const table = make("table", { class: "chart" });

    const bars = (children, element = "td") =>
      make(
        element,
        { class: "bars" },
        ...MARKS.map((mark) => styled(make("span", { class: "tick" }), { left: `${mark}%` })),
        ...children,
      );

    function rows() {
      if (sorted.by === undefined) return listed;
      const flip = sorted.up ? 1 : -1;
      if (sorted.by === "name") return [...listed].sort((a, b) => -flip * compareText(a, b));
      const of = (name) => value(sorted.by, name);
      return [...listed].sort((a, b) => (of(a) === null) - (of(b) === null) || flip * (of(a) - of(b)));
    }

    function header(by, text, attributes) {
      const active = sorted.by === by;
      const button = make("button", { type: "button", class: active ? `sorted${sorted.up ? " up" : ""}` : "" }, text);
      button.addEventListener("click", () => {
        // Down, up, and back to the order of the classes.
        if (sorted.by !== by) Object.assign(sorted, { by, up: false });
        else if (!sorted.up) sorted.up = true;
        else sorted.by = undefined;
        render();
        table.querySelectorAll("thead button")[by === "name" ? 0 : 1 + visible().indexOf(by)].focus();
      });
      const direction = active ? (sorted.up === (by !== "name") ? "ascending" : "descending") : undefined;
      return make("th", { scope: "col", "aria-sort": direction, ...attributes }, button);
    }

    const visible = () => results.filter((result) => shown.has(result));

    function row(name) {
      let label = name;
      if (inGallery(name)) {
        label = make("button", { type: "button", title: `Show the photographs of ${name}` }, name);
        label.addEventListener("click", () => showClass(name));
      }
      const shownBars = visible().map((result) => {
        const share = value(result, name);
        return styled(make("div", { class: "bar", title: `${result.name}: ${percent(share)} %` }), {
          "--series": result.colour,
          "--share": `${100 * (share ?? 0)}%`,
          visibility: share === null ? "hidden" : "visible",
        });
      });
      const means = visible()
        .filter((result) => result.mean !== null)
        .map((result) => styled(make("span", { class: "mean" }), { "--series": result.colour, left: `${100 * result.mean}%` }));
      return make(
        "tr",
        {},
        make("th", { scope: "row" }, label),
        bars([...shownBars, ...means]),
        ...visible().map((result) => make("td", { class: "number" }, percent(value(result, name)))),
      );
    }

    function render() {
      const marks = MARKS.map((mark) => styled(make("span", { class: "mark" }, String(mark)), { left: `${mark}%` }));
      table.replaceChildren(
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            header("name", "Class", {}),
            make("td", { class: "bars", "aria-hidden": "true" }, ...marks),
            ...visible().map((result) => header(result, result.name, { class: "number" })),
          ),
        ),
        make("tbody", {}, ...rows().map(row)),
        make(
          "tfoot",
          {},
          make(
            "tr",
            {},
            make("th", { scope: "row" }, "mean"),
            make("td", {}),
            ...visible().map((result) => make("td", { class: "number" }, percent(result.mean))),
          ),
        ),
      );
    }

    const legend = make("fieldset", { class: "series" }, make("legend", { class: "hidden" }, "Results shown"));
    for (const result of results) {
      const box = make("input", { type: "checkbox", checked: "" });
      box.addEventListener("change", () => {
        if (box.checked) shown.add(result);
        else shown.delete(result);
        if (sorted.by === result) sorted.by = undefined;
        render();
      });
      legend.append(
        make("label", {}, box, swatch(result.colour), make("span", {}, result.name), make("span", { class: "rest" }, result.headline)),
      );
    }
    render();
    return make("div", { class: "measure" }, make("h3", {}, measure), legend, make("div", { class: "scroll" }, table));
  }

  function startMetrics() {
    const results = report.scores.filter((result) => result.values.length);
    if (!results.length) return;
    const measures = [...new Set(results.map((result) => result.measure))];
    const charts = measures.map((measure) => {
      const group = results.filter((result) => result.measure === measure);
      group.forEach((result, index) => (result.colour = series(index)));
      return chart(measure, group);
    });
    byId("charts").replaceChildren(...charts);
    byId("metrics-hint").hidden = !cards.length;
  }

  // ---------------------------------------------------------------- confusion matrix

  function startConfusion() {
    const results = report.scores.filter((result) => result.confusion);
    if (!results.length) return;
    const MISTAKES = 12;
    const STRONG = 0.62;
    const PRINTED_COLUMNS = 24;
    const [first] = report.rankings;
    const state = { result: results.find(({ name }) => first && name === first[1]) ?? results[0], pixels: false };
    const short = new Intl.NumberFormat("en-GB", { notation: "compact", maximumSignificantDigits: 3 });
    const labels = () => [...state.result.values.map(([name]) => name), "unlabelled"];

    function sentence(row, column, pixels, share) {
      const [truth, predicted] = [labels()[row], labels()[column]];
      const what =
        row === column ? `${truth} found` : predicted === "unlabelled" ? `${truth} left unlabelled` : `${truth} taken for ${predicted}`;
      return [what, `${count(pixels)} pixels, ${percent(share)} % of ${truth}`];
    }

    function render() {
      const matrix = state.result.confusion;
      const totals = matrix.map((row) => row.reduce((sum, pixels) => sum + pixels, 0));
      const share = (row, column) => (totals[row] ? matrix[row][column] / totals[row] : null);
      const heads = labels().map((name) => make("th", { scope: "col", title: name }, make("span", {}, name)));
      const sides = matrix.map((_, row) => make("th", { scope: "row", title: labels()[row] }, labels()[row]));
      const body = matrix.map((row, r) =>
        make(
          "tr",
          {},
          sides[r],
          ...row.map((pixels, c) => {
            const part = share(r, c);
            const text = part === null ? "-" : !pixels ? "" : state.pixels ? short.format(pixels) : (100 * part).toFixed(part < 0.0995 ? 1 : 0);
            // The root lets small shares be seen.
            const strength = Math.sqrt(part ?? 0);
            const cell = make("td", { class: strength > STRONG ? "strong" : "" }, text);
            return pixels
              ? styled(cell, { "background-color": `rgb(var(${r === c ? "--right" : "--wrong"}) / ${strength.toFixed(3)})` })
              : cell;
          }),
        ),
      );
      const table = make(
        "table",
        {},
        make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "true ↓ labelled →"), ...heads)),
        make("tbody", {}, ...body),
      );
      const reading = byId("matrix-reading");
      const idle = "Point at a cell to read it.";
      reading.textContent = idle;
      const met = [];
      const leave = () => met.splice(0).forEach((head) => head.classList.remove("met"));
      table.addEventListener("pointerover", ({ target }) => {
        leave();
        const cell = target.closest("td");
        if (!cell) return;
        const [r, c] = [cell.parentElement.rowIndex - 1, cell.cellIndex - 1];
        met.push(sides[r], heads[c]);
        met.forEach((head) => head.classList.add("met"));
        const part = share(r, c);
        reading.textContent =
          part === null ? `${labels()[r]}: no pixel in the truth` : sentence(r, c, matrix[r][c], part).join(": ");
      });
      table.addEventListener("pointerleave", () => {
        leave();
        reading.textContent = idle;
      });
      // As many columns as there are must go onto the paper.
      byId("matrix").replaceChildren(styled(table, { "--print-zoom": Math.min(0.9, PRINTED_COLUMNS / heads.length) }));

      // Background is left out: how much of a class is missed or invented stands in the first column and row.
      const mistakes = matrix
        .flatMap((row, r) => row.map((pixels, c) => ({ r, c, pixels })))
        .filter(({ r, c, pixels }) => r > 0 && c > 0 && r !== c && c < matrix.length && pixels)
        .sort((a, b) => share(b.r, b.c) - share(a.r, a.c))
        .slice(0, MISTAKES);
      byId("mistakes-part").hidden = !mistakes.length;
      byId("mistakes").replaceChildren(
        ...mistakes.map(({ r, c, pixels }) => {
          const [what, rest] = sentence(r, c, pixels, share(r, c));
          return make("li", {}, `${what} `, make("span", { class: "rest" }, rest));
        }),
      );
    }

    const pressResult = choice(
      byId("matrix-results"),
      results.map((result) => [result, result.name]),
      (result) => {
        state.result = result;
        render();
      },
    );
    const pressUnit = choice(byId("matrix-units"), [[false, "% of the true class"], [true, "pixels"]], (pixels) => {
      state.pixels = pixels;
      render();
    });
    pressResult(state.result);
    pressUnit(state.pixels);
    byId("matrix-results").hidden = results.length < 2;
    render();
  }

  // ---------------------------------------------------------------- training curves

  /** Round values that divide a range into about `parts`. */
  function ticks(low, high, parts) {
    const rough = (high - low) / parts || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const values = [];
    for (let index = Math.ceil(low / step); index * step <= high + step * 1e-6; index += 1) values.push(index * step);
    return values;
  }

  const brief = (number) => Number(number.toPrecision(4)).toLocaleString("en-GB", { maximumSignificantDigits: 4 });

  function lineChart(training) {
    const HEIGHT = 260;
    const MARGIN = { top: 12, right: 14, bottom: 40, left: 56 };
    const curves = training.curves.map((curve, index) => ({
      ...curve,
      colour: series(index),
      finite: curve.points.filter(([step, value]) => step !== null && value !== null),
    }));
    const points = curves.flatMap((curve) => curve.finite);
    const box = make("div", { class: "training" }, make("h3", {}, training.name));
    if (!points.length) {
      box.append(make("p", { class: "empty" }, "No finite value was logged."));
      return box;
    }
    const extent = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    const [first, last] = extent([...points.map(([step]) => step), 0]);
    let [low, high] = extent([...points.map(([, value]) => value), 0]);
    if (high <= low) high = low + 1;
    // Room up to the next round value.
    const marks = ticks(low, high, 5);
    high = Math.max(high, marks.at(-1) + (high > marks.at(-1) ? marks[1] - marks[0] : 0));
    const readings = curves.map(() => make("b", {}));
    const readStep = make("li", { class: "chip" });
    box.append(
      make(
        "ul",
        { class: "key" },
        ...curves.map((curve, index) => make("li", { class: "chip" }, swatch(curve.colour), curve.name, readings[index])),
        readStep,
      ),
    );
    const holder = make("div");
    box.append(holder);

    function render(width) {
      const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
      const x = (step) => MARGIN.left + (last > first ? (step - first) / (last - first) : 0.5) * inner.width;
      const y = (value) => MARGIN.top + (1 - (value - low) / (high - low)) * inner.height;
      const bottom = MARGIN.top + inner.height;
      const summary = curves
        .filter((curve) => curve.finite.length)
        .map((curve) => `${curve.name} from ${brief(curve.finite[0][1])} to ${brief(curve.finite.at(-1)[1])}`)
        .join(", ");
      const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": `${training.name}: ${summary}` });
      for (const value of ticks(low, high, 5)) {
        svg.append(
          draw("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
          draw("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, brief(value)),
        );
      }
      for (const step of ticks(first, last, Math.max(2, Math.floor(inner.width / 90)))) {
        svg.append(
          draw("line", { class: "grid", x1: x(step), x2: x(step), y1: bottom, y2: bottom + 4 }),
          draw("text", { x: x(step), y: bottom + 18, "text-anchor": "middle" }, brief(step)),
        );
      }
      svg.append(
        draw("text", { x: MARGIN.left + inner.width / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "step"),
        draw("text", { x: 12, y: MARGIN.top + inner.height / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${MARGIN.top + inner.height / 2})` }, "loss"),
      );
      for (const curve of curves) {
        // A value that is not finite interrupts the line.
        let path = "";
        let pen = "M";
        for (const [step, value] of curve.points) {
          if (step === null || value === null) pen = "M";
          else {
            path += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
            pen = "L";
          }
        }
        const line = draw("path", { class: "line", d: path });
        svg.append(styled(line, { "--series": curve.colour }));
        if (curve.finite.length < 40) {
          for (const [step, value] of curve.finite) {
            svg.append(styled(draw("circle", { class: "dot", cx: x(step), cy: y(value), r: 2.5 }), { "--series": curve.colour }));
          }
        }
      }
      const cursor = draw("line", { class: "cursor", y1: MARGIN.top, y2: bottom, visibility: "hidden" });
      svg.append(cursor);
      const steps = [...new Set(points.map(([step]) => step))].sort((a, b) => a - b);
      const leave = () => {
        cursor.setAttribute("visibility", "hidden");
        curves.forEach((curve, index) => (readings[index].textContent = curve.finite.length ? brief(curve.finite.at(-1)[1]) : "-"));
        readStep.textContent = `at step ${brief(last)}`;
      };
      svg.addEventListener("pointermove", (event) => {
        const wanted = first + ((event.clientX - svg.getBoundingClientRect().left - MARGIN.left) / inner.width) * (last - first);
        const step = steps.reduce((best, other) => (Math.abs(other - wanted) < Math.abs(best - wanted) ? other : best));
        cursor.setAttribute("x1", x(step));
        cursor.setAttribute("x2", x(step));
        cursor.setAttribute("visibility", "visible");
        curves.forEach((curve, index) => {
          const found = curve.finite.find(([other]) => other === step);
          readings[index].textContent = found ? brief(found[1]) : "-";
        });
        readStep.textContent = `at step ${brief(step)}`;
      });
      svg.addEventListener("pointerleave", leave);
      leave();
      holder.replaceChildren(svg);
    }

    let drawn = 0;
    new ResizeObserver(([{ contentRect }]) => {
      const width = Math.max(240, Math.round(contentRect.width));
      if (width !== drawn) render((drawn = width));
    }).observe(holder);
    return box;
  }

  // ---------------------------------------------------------------- the rest of the page

  function startNavigation() {
    const links = new Map(Array.from(document.querySelectorAll("nav .links a"), (link) => [link.hash.slice(1), link]));
    const mark = () => {
      let current;
      for (const [id, link] of links) {
        link.removeAttribute("aria-current");
        if (byId(id).getBoundingClientRect().top < window.innerHeight / 3) current = link;
      }
      if (current) current.setAttribute("aria-current", "true");
    };
    let waiting = false;
    window.addEventListener(
      "scroll",
      () => {
        if (waiting) return;
        waiting = true;
        requestAnimationFrame(() => {
          waiting = false;
          mark();
        });
      },
      { passive: true },
    );
    mark();
  }

  function startSettings() {
    const button = byId("copy");
    if (!button) return;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(byId("yaml").textContent);
        byId("copied").textContent = "copied";
      } catch {
        // Not every browser lets a local file at the clipboard; the person can.
        getSelection().selectAllChildren(byId("yaml"));
        byId("copied").textContent = "selected, copy it with Ctrl+C";
      }
    });
  }

  startGallery();
  startMetrics();
  startConfusion();
  if (report.trainings.length) byId("trainings").replaceChildren(...report.trainings.map(lineChart));
  startNavigation();
  startSettings();
})();
