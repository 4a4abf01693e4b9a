// Reading the JSON Schema of a job's input: what each property is, whatever way it is written.

/** Whether a property belongs into a form: not another name of one that is there, nor one of yesterday's. */
export function offered(property) {
  return !property.deprecated && !/^#\/(\$defs\/[^/]+\/)?properties\//.test(property.$ref ?? "");
}

/** A property with its references and its "or null" taken away. */
export function resolve(property, schema) {
  if (property.$ref) {
    const target = property.$ref.replace("#/", "").split("/");
    const { $ref, ...own } = property;
    property = { ...target.reduce((found, name) => found?.[name], schema), ...own };
  }
  const choices = (property.anyOf ?? property.oneOf ?? []).filter((choice) => choice.type !== "null");
  if (choices.length > 0) property = { ...resolve(choices[0], schema), ...property };
  if (Array.isArray(property.type)) property = { ...property, type: property.type.find((type) => type !== "null") };
  if (property.enum) property = { ...property, enum: property.enum.filter((value) => value !== null) };
  return property;
}

/** The fields of an object's schema that a form has: `[name, property]`, resolved. */
export function fieldsOf(object, schema) {
  return Object.entries(object.properties ?? {})
    .filter(([, property]) => offered(property))
    .map(([name, raw]) => [name, resolve(raw, schema)]);
}

/** What people call a field: its title where one was written, else its name in words. */
export function labelOf(name, property) {
  const words = name.replaceAll("_", " ");
  return property?.title ?? words[0].toUpperCase() + words.slice(1);
}

/** Whether a field's text is a picture. */
export function isPicture(name, property) {
  return property.contentMediaType?.startsWith("image/") || (property.type === "string" && name === "image");
}

/** An input by the fields' own names, whatever other names it uses; unknown keys are left as they are. */
export function canonical(input, schema) {
  const named = new Map();
  for (const [name, property] of Object.entries(schema?.properties ?? {})) {
    for (const alias of property.aliases ?? []) named.set(alias, name);
  }
  return Object.fromEntries(Object.entries(input).map(([name, value]) => [named.get(name) ?? name, value]));
}

/** The names of add-ons that a field's objects may have. */
export function addOnsOf(field, schema) {
  const property = resolve(schema?.properties?.[field] ?? {}, schema);
  const object = property.items ? resolve(property.items, schema) : property;
  return fieldsOf(object, schema).find(([, { addOn }]) => addOn)?.[1].examples ?? [];
}
