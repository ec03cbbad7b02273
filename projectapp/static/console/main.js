export const config = JSON.parse(document.getElementById("config").textContent);
