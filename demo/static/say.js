// A sentence of the server, shown as text and never as markup: `element` holds the constant template of `app.py`. Value: {text}.
const place = element.querySelector(".say");
const show = () => { place.textContent = props.value?.text ?? ""; };
watch("value", show);
show();
