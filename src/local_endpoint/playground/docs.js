// The OpenAPI document as a page, without anything from elsewhere.

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function code(value) {
  return element("pre", "", element("code", JSON.stringify(value, null, 2)));
}

function parameters(operation) {
  const items = (operation.parameters ?? []).map((one) => element("li", `${one.name} (${one.in}): ${one.description}`));
  return items.length ? [element("ul", "", ...items)] : [];
}

function request(operation) {
  const content = operation.requestBody?.content["application/json"];
  if (!content) return [];
  const schema = element("details", "", element("summary", "Everything that a request may hold"), code(content.schema));
  return [element("h3", "Request"), code(content.schema.example), schema];
}

function answers(operation) {
  return Object.entries(operation.responses).map(([status, response]) => {
    const examples = Object.values(response.content?.["application/json"]?.examples ?? {});
    const shown = examples.map((example) => code(example.value));
    const details = element("details", "", element("summary", `${status}: ${response.description}`), ...shown);
    details.open = status === "200";
    return details;
  });
}

const openapi = await (await fetch("/openapi.json")).json();
for (const [path, item] of Object.entries(openapi.paths)) {
  const methods = Object.keys(item).sort();
  const operation = item[methods[0]];
  document.getElementById("operations").append(
    element(
      "article",
      "",
      element("h2", `${methods.join(" or ").toUpperCase()} ${path}`),
      element("p", operation.summary),
      ...parameters(operation),
      ...request(operation),
      element("h3", "Answers"),
      ...answers(operation),
    ),
  );
}
