//! The JSON Schemas that editors check scenario and lab files against.

use schemars::JsonSchema;

use super::file::ScenarioFile;
use crate::lab::Lab;

/// The JSON Schema of a scenario file.
pub fn schema() -> String {
    text::<ScenarioFile>()
}

/// The JSON Schema of a lab file.
pub fn lab_schema() -> String {
    text::<Lab>()
}

/// Both schemas under the names of their files in `scenarios/`.
pub fn schemas() -> [(&'static str, String); 2] {
    [
        ("scenario.schema.json", schema()),
        ("lab.schema.json", lab_schema()),
    ]
}

fn text<T: JsonSchema>() -> String {
    let schema = schemars::schema_for!(T).to_value();
    format!("{schema:#}\n")
}
