// A sentence of the server, shown as text and never as markup: `element` holds the constant template of `app.py`.
const place = element.querySelector(".say");
const show = () => { place.textContent = typeof props.value === "string" ? props.value : ""; };
watch("value", show);
show();
