import { useEffect, useMemo, useReducer, useRef } from "react";

type Item = { id: string; label: string; aisle: string; done: boolean };

type Action =
  | { type: "add"; label: string; aisle: string }
  | { type: "toggle"; id: string }
  | { type: "remove-done" }
  | { type: "load"; items: Item[] };

function reduce(items: Item[], action: Action): Item[] {
  switch (action.type) {
    case "add": {
      const label = action.label.trim();
      if (!label || items.some((item) => item.label.toLowerCase() === label.toLowerCase())) return items;
      return [...items, { id: crypto.randomUUID(), label, aisle: action.aisle, done: false }];
    }
    case "toggle":
      return items.map((item) => (item.id === action.id ? { ...item, done: !item.done } : item));
    case "remove-done":
      return items.filter((item) => !item.done);
    case "load":
      return action.items;
  }
}

function parse(text: string | null): Item[] {
  if (text === null) return [];
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) ? value.filter((x): x is Item => typeof x?.id === "string") : [];
  } catch {
    return [];
  }
}

export function ShoppingList({ storageKey = "shopping" }: { storageKey?: string }) {
  const [items, dispatch] = useReducer(reduce, []);
  const input = useRef<HTMLInputElement>(null);

  useEffect(() => dispatch({ type: "load", items: parse(localStorage.getItem(storageKey)) }), [storageKey]);
  useEffect(() => localStorage.setItem(storageKey, JSON.stringify(items)), [items, storageKey]);

  const aisles = useMemo(() => {
    const groups = new Map<string, Item[]>();
    for (const item of items) groups.set(item.aisle, [...(groups.get(item.aisle) ?? []), item]);
    return [...groups].sort(([a], [b]) => a.localeCompare(b));
  }, [items]);

  const left = items.filter((item) => !item.done).length;

  return (
    <section aria-label="Shopping list">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          const form = new FormData(event.currentTarget);
          dispatch({ type: "add", label: String(form.get("label")), aisle: String(form.get("aisle")) });
          event.currentTarget.reset();
          input.current?.focus();
        }}
      >
        <input ref={input} name="label" placeholder="What is missing?" required />
        <select name="aisle" defaultValue="vegetables">
          {["vegetables", "bread", "dairy", "household"].map((aisle) => (
            <option key={aisle}>{aisle}</option>
          ))}
        </select>
        <button>Add</button>
      </form>
      {aisles.map(([aisle, group]) => (
        <fieldset key={aisle}>
          <legend>{aisle}</legend>
          {group.map((item) => (
            <label key={item.id} style={{ textDecoration: item.done ? "line-through" : "none" }}>
              <input type="checkbox" checked={item.done} onChange={() => dispatch({ type: "toggle", id: item.id })} />
              {item.label}
            </label>
          ))}
        </fieldset>
      ))}
      <p>{left === 0 ? "All done." : `${left} ${left === 1 ? "thing" : "things"} to get`}</p>
      <button onClick={() => dispatch({ type: "remove-done" })}>Clear what is done</button>
    </section>
  );
}
