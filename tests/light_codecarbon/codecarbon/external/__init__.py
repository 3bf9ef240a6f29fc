"""What is light in CodeCarbon?"""
