// What makes the submit form handier; without it the same can be typed.

const add = document.getElementById("add-line");
const lines = document.getElementById("lines");

add.hidden = false;
add.addEventListener("click", () => {
  const number = lines.children.length;
  const line = lines.lastElementChild.cloneNode(true);
  line.classList.remove("wrong");
  line.querySelectorAll(".error").forEach((error) => error.remove());
  line.querySelectorAll("input").forEach((input, index) => {
    const id = `line_${number}${index ? "_limit" : ""}`;
    line.querySelectorAll("label")[index].htmlFor = id;
    input.id = id;
    input.value = "";
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-describedby");
  });
  lines.append(line);
  line.querySelector("input").focus();
});

// An engine that runs on one kind of device only chooses it.
document.getElementById("engine").addEventListener("change", (event) => {
  const resource = event.target.selectedOptions[0].dataset.resource;
  if (resource) document.getElementById("resource").value = resource;
});
