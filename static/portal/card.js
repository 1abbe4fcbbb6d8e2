// Stripe's card form (Elements): the number goes from this browser to Stripe. Only used where the installation has a Stripe key.
const card = document.getElementById("card");
addEventListener("DOMContentLoaded", begin);
if (document.readyState !== "loading") begin();

let begun = false;
function begin() {
  if (begun || !window.Stripe) return;
  begun = true;
  const stripe = window.Stripe(card.dataset.key);
  const elements = stripe.elements({ clientSecret: card.dataset.secret });
  elements.create("payment").mount("#element");
  card.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const confirm = card.dataset.kind === "setup" ? stripe.confirmSetup : stripe.confirmPayment;
    const { error } = await confirm.call(stripe, { elements, confirmParams: { return_url: card.dataset.back } });
    if (error) document.getElementById("problem").textContent = error.message;
  });
}
