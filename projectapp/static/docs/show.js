const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

const { document: url } = document.getElementById("api").dataset;
SwaggerUIBundle({ url, dom_id: "#api", validatorUrl: null, deepLinking: true });
