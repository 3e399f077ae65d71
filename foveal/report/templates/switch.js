"use strict";
/* Shows the chart that a list has chosen, of those in the element that it names. */
for (const choice of document.querySelectorAll("select[data-shows]")) {
  choice.onchange = () => [...document.getElementById(choice.dataset.shows).children].forEach((one, k) => { one.hidden = k !== +choice.value; });
}
