import unittest

from application import application


class SpamTest(unittest.TestCase):
    def setUp(self):
        self.client = application.test_client()

    def test_root_redirects(self):
        self.assertEqual(self.client.get("/").status_code, 302)

    def test_form(self):
        self.assertIn(b"textarea", self.client.get("/check").data)

    def test_check(self):
        page = self.client.post("/check", data={"message": "win a free prize now"})
        self.assertEqual(page.status_code, 200)


if __name__ == "__main__":
    unittest.main()
