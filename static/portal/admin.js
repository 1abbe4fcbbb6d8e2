// What django-unfold's pages lack for people who hear them: a main landmark, and names that tell scrollable regions apart.
addEventListener("load", () => {
  document.getElementById("main")?.setAttribute("role", "main");
  setTimeout(() => document.querySelectorAll(".simplebar-content-wrapper").forEach((region, n) => region.setAttribute("aria-label", `scrollable content ${n + 1}`)));
});
