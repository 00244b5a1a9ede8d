// A click on a column's title sorts by it, another one turns the order; cells without a value stay below.
for (const title of document.querySelectorAll("th[data-sorts]")) {
  const body = title.closest("table").tBodies[0];
  const sort = () => {
    const down = title.getAttribute("aria-sort") === "ascending";
    for (const other of title.parentNode.cells) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[title.cellIndex]?.dataset.value ?? row.cells[title.cellIndex]?.textContent.trim() ?? "";
    const isNumber = [...body.rows].every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
    const compare = (a, b) => (isNumber ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      if (left === "" || right === "") return (left === "") - (right === "");
      return down ? compare(right, left) : compare(left, right);
    });
    body.append(...rows);
  };
  title.tabIndex = 0;
  title.addEventListener("click", sort);
  title.addEventListener("keydown", (event) => {
    if (event.key === "Enter") sort();
  });
}
// On paper nothing can be unfolded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
// A click on a picture enlarges it.
const large = document.querySelector("dialog");
for (const picture of document.querySelectorAll("figure img")) picture.addEventListener("click", () => {
  large.firstElementChild.src = picture.src;
  large.firstElementChild.className = picture.className;
  large.showModal();
});
large.addEventListener("click", () => large.close());
