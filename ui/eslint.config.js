import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules", "*.js", "*.mjs"] },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      "max-lines": ["error", 300],
      "max-params": "off",
      "@typescript-eslint/max-params": ["error", { max: 5 }],
      "no-restricted-properties": [
        "error",
        { property: "innerHTML", message: "user text never becomes HTML" },
        { property: "outerHTML", message: "user text never becomes HTML" },
      ],
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
    },
  },
);
