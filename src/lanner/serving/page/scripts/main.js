// Entry point; each part has its own module.

import { joinBack, put } from "./answer.js";
import { joinForms, offer } from "./questions.js";
import { joinLoad, loadUsers } from "./load.js";
import { joinKey } from "./key-form.js";
import { watch } from "./watch.js";

joinKey();
joinForms(put);
joinBack();
joinLoad();
watch((status) => {
  offer(status);
  loadUsers(status.example_users);
});
