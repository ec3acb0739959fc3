// Starts Swagger UI; by itself because the page's policy forbids inline scripts.
"use strict";
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  // Else the document's address is sent to a validator on the internet.
  validatorUrl: null,
});
