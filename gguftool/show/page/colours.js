// Colours that colour-blind eyes and grey prints tell apart: viridis from little to much, orange and purple around a middle.
const stops = {
  sequential: ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"],
  light: ["#2d004b", "#542788", "#8073ac", "#b2abd2", "#f1eff2", "#fdb863", "#e08214", "#b35806", "#7f3b08"],
  dark: ["#cbbcff", "#a08be0", "#775fb8", "#4a3d73", "#2b2b30", "#6b4311", "#a8671a", "#e08f2c", "#ffc274"],
};
const night = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const ramp = (name) => stops[name === "diverging" ? (night.matches && !printing ? "dark" : "light") : name];
const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// The colour at t from 0 to 1, as [r, g, b].
function colourAt(name, t) {
  const held = ramp(name);
  const at = Math.min(1, Math.max(0, t)) * (held.length - 1);
  const low = Math.min(held.length - 2, Math.floor(at));
  const [a, b] = [channels(held[low]), channels(held[low + 1])];
  return a.map((v, i) => Math.round(v + (b[i] - v) * (at - low)));
}
const css = (rgb) => `rgb(${rgb.join(",")})`;
// Ink that can be read on a colour (relative luminance of WCAG).
function inkOn(rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}
const gradient = (name) => `linear-gradient(90deg,${ramp(name).join(",")})`;

function drawLegend(prefix, title, name, ticks) {
  byId(`${prefix}legend`).hidden = !ticks.length;
  byId(`${prefix}legend-title`).textContent = title;
  byId(`${prefix}ramp`).style.background = gradient(name);
  byId(`${prefix}ticks`).replaceChildren(...ticks.map(([at, text]) => {
    const tick = element("span", text);
    tick.style.left = `${100 * at}%`;
    return tick;
  }));
}
