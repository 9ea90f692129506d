"""What schemathesis is told beside the document: it must not end the very key that it calls with."""

import os

import schemathesis

OWN = os.environ["WEIR_TEST_KEY_ID"]


@schemathesis.hook
def before_call(context, case, kwargs):
    # A list of keys shows ours too, and a later step may be to revoke what a list has shown.
    if case.path_parameters and case.path_parameters.get("key_id") == OWN:
        case.path_parameters["key_id"] = "000000000000"
